"""ModelScope: the frames of plain diffusers, the oracle, training of both kinds, and what is refused."""

from pathlib import Path

import pytest
import torch
from checkpoints import clip_text, image_vae
from contract import aligned, equals_diffusers, full_training_works, lands_on_x_0, lora_training_works, opened, trained

from text2video import video
from text2video.errors import ModelError, UsageError
from text2video.generation import Settings, generate
from text2video.sizes import Bucket

SMALL = Settings(num_frames=4, height=16, width=16, num_inference_steps=3, guidance_scale=3.0, seed=5)
FLAGS = ("--num_frames", "4", "--frame_size", "16")


def modelscope(folder: Path) -> None:
    """`TextToVideoSDPipeline`."""
    from diffusers import DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel

    text_encoder, tokenizer = clip_text()
    vae = image_vae()
    torch.manual_seed(4)
    unet = UNet3DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
        sample_size=8,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    TextToVideoSDPipeline(vae, text_encoder, tokenizer, unet, scheduler).save_pretrained(folder)


def bare(folder: Path, generator: torch.Generator, adapter: Path | None = None) -> torch.Tensor:
    from diffusers import TextToVideoSDPipeline

    pipe = aligned(TextToVideoSDPipeline.from_pretrained(folder))
    if adapter:
        pipe.load_lora_weights(adapter)
    call = {"num_frames": 4, "height": 16, "width": 16, "num_inference_steps": 3, "guidance_scale": 3.0}
    return pipe("a red circle", **call, generator=generator, output_type="pt").frames[0]


def test_text_to_video_equals_diffusers(made):
    folder = made(modelscope)
    equals_diffusers(folder, lambda generator: bare(folder, generator), SMALL)


def test_video_to_video_equals_diffusers(made, few_clips):
    from diffusers import VideoToVideoSDPipeline
    from PIL import Image

    folder, clip = made(modelscope), next((few_clips / "videos").iterdir())

    def plain(generator: torch.Generator) -> torch.Tensor:
        frames = [Image.fromarray(f) for f in video.sample(clip, 4, fps=8.0, height=16, width=16).frames]
        pipe = aligned(VideoToVideoSDPipeline.from_pretrained(folder))
        return pipe(
            "a red circle", frames, strength=0.7, num_inference_steps=5, guidance_scale=3.0, generator=generator,
            output_type="pt",
        ).frames[0]  # fmt: skip

    settings = Settings(
        num_frames=4, height=16, width=16, num_inference_steps=5, guidance_scale=3.0, video=clip, strength=0.7, seed=5
    )
    equals_diffusers(folder, plain, settings)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_oracle_lands_on_x_0(made, prediction):
    def run(pipe):
        pipe.scheduler.register_to_config(prediction_type=prediction, set_alpha_to_one=True)
        pipe.scheduler.final_alpha_cumprod = torch.tensor(1.0)
        call = {"num_frames": 4, "height": 16, "width": 16, "num_inference_steps": 7, "guidance_scale": 1.0}
        found = []
        pipe("a", **call, output_type="latent", callback=lambda step, t, latents: found.append(latents))
        return found[-1]

    def oracle(pipe):
        pipe.unet.prediction = {"epsilon": "epsilon", "v_prediction": "v"}[prediction]
        return run(pipe)

    lands_on_x_0(made(modelscope), "unet", oracle, (1, 4, 4, 8, 8))


def test_full_training(made, few_clips, tmp_path):
    full_training_works(made(modelscope), few_clips, tmp_path / "run", SMALL, *FLAGS)


def test_lora_training(made, few_clips, tmp_path):
    folder = made(modelscope)
    lora_training_works(folder, few_clips, tmp_path / "run", SMALL, None, *FLAGS)


def test_a_base_in_half_precision_trains(made, few_clips, tmp_path):
    final = trained(made(modelscope), few_clips, tmp_path, "--lora", "--mixed_precision", "bf16", *FLAGS)
    assert (final / "pytorch_lora_weights.safetensors").is_file()


def test_what_it_cannot_do_is_said(made, few_clips, tmp_path):
    family, pipe = opened(made(modelscope))
    picture = next((few_clips / "videos").iterdir())
    with pytest.raises(UsageError, match="does not do image-to-video, only text-to-video"):
        next(generate(family, pipe, ["a"], Settings(image=picture)))
    with pytest.raises(UsageError, match="no motion_bucket_id"):
        next(generate(family, pipe, ["a"], Settings(options={"motion_bucket_id": 1})))
    with pytest.raises(UsageError, match="height 17"):
        family.rules(pipe).check(Bucket(4, 17, 16))
    (tmp_path / "model_index.json").write_text('{"_class_name": "TextToVideoSDPipeline"}')
    with pytest.raises(ModelError, match="cannot be opened"):
        opened(tmp_path)
