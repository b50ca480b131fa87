"""Stable Video Diffusion: the frames of plain diffusers, the oracle, training with first frames and with texts."""

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import clip_text, image_vae
from contract import (
    aligned,
    equals_diffusers,
    full_training_works,
    lands_on_x_0,
    learned,
    lora_training_works,
    opened,
    trained,
)
from PIL import Image

from text2video import video
from text2video.cli.main import run
from text2video.data.dataset import to_float
from text2video.diffusion.objectives import Batch, TextToVideoDiffusion
from text2video.errors import ModelError, UsageError
from text2video.families import svd as svd_family
from text2video.generation import Settings, generate
from text2video.models.codecs import decode
from text2video.sizes import Bucket

CALL = {"num_frames": 3, "height": 16, "width": 24, "num_inference_steps": 3}
SMALL = Settings(**CALL, guidance_scale=2.0, seed=5)
FLAGS = ("--num_frames", "3", "--height", "16", "--width", "24")


def svd(folder: Path) -> None:
    """`StableVideoDiffusionPipeline`."""
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(6)
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1
    )
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        layers_per_block=1,
        cross_attention_dim=16,
        num_attention_heads=(2, 2),
        num_frames=14,
    )
    eyes = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=224,
        patch_size=112,
        projection_dim=16,
    )
    scheduler = EulerDiscreteScheduler(  # as published
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", interpolation_type="linear",
        num_train_timesteps=1000, prediction_type="v_prediction", sigma_max=700.0, sigma_min=0.002, steps_offset=1,
        timestep_spacing="leading", timestep_type="continuous", use_karras_sigmas=True,
    )  # fmt: skip
    processor = CLIPImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})
    parts = (vae, CLIPVisionModelWithProjection(eyes), unet, scheduler, processor)
    StableVideoDiffusionPipeline(*parts).save_pretrained(folder)


def images(folder: Path) -> None:
    """`StableDiffusionPipeline`, which draws first frames."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    text_encoder, tokenizer = clip_text()
    torch.manual_seed(7)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    parts = (image_vae(), text_encoder, tokenizer, unet, scheduler)
    StableDiffusionPipeline(*parts, None, None, requires_safety_checker=False).save_pretrained(folder)


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Path:
    """A first frame."""
    path = tmp_path_factory.mktemp("picture") / "first.png"
    ramp = np.linspace(0, 255, 16 * 24 * 3).reshape(16, 24, 3)
    Image.fromarray(ramp.astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def following(made, few_clips, tmp_path_factory) -> Path:
    """The result of two steps of training with texts."""
    root = tmp_path_factory.mktemp("following")
    text_encoder, tokenizer = clip_text(width=8)
    text_encoder.save_pretrained(root / "clip")
    tokenizer.save_pretrained(root / "clip")
    return trained(made(svd), few_clips, root / "run", "--text_encoder", str(root / "clip"), *FLAGS)


def starting(picture: Path, **more) -> Settings:
    return replace(SMALL, image=picture, **more)


def bare(folder: Path, image: Image.Image, generator: torch.Generator, **more) -> torch.Tensor:
    from diffusers import StableVideoDiffusionPipeline

    pipe = aligned(StableVideoDiffusionPipeline.from_pretrained(folder))
    more = {"max_guidance_scale": 2.0, "decode_chunk_size": 8, **more}
    return pipe(image, **CALL, **more, generator=generator, output_type="pt").frames[0]


def test_image_to_video_equals_diffusers(made, picture):
    folder, image = made(svd), Image.open(picture)
    first = equals_diffusers(folder, lambda generator: bare(folder, image, generator), starting(picture))
    own = {"motion_bucket_id": 20, "noise_aug_strength": 0.3, "decode_chunk_size": 2}
    other = equals_diffusers(
        folder, lambda generator: bare(folder, image, generator, **own, fps=12), starting(picture, options=own, fps=12)
    )
    assert not np.array_equal(first.frames, other.frames)


def test_text_to_video_begins_with_a_picture_of_an_image_model(made):
    from diffusers import StableDiffusionPipeline

    def plain(generator: torch.Generator) -> torch.Tensor:
        pipe = StableDiffusionPipeline.from_pretrained(made(images), safety_checker=None)
        drawn = pipe("a red circle", height=16, width=24, generator=generator).images[0]
        return bare(made(svd), drawn, generator)

    equals_diffusers(made(svd), plain, SMALL, parts={"image_model": made(images)})


def test_published_defaults_are_those_of_the_folder(made):
    family, pipe = opened(made(svd))
    own = family.defaults(pipe)
    assert (own.num_frames, own.height, own.width, own.fps, own.num_inference_steps) == (14, 576, 1024, 7.0, 25)
    assert family.tasks(pipe) == ("image-to-video",)
    family.rules(pipe).check(Bucket(25, 576, 1024))


def conditions(family, pipe, clip: torch.Tensor, seed: int = 0) -> dict[str, torch.Tensor]:
    """What the denoiser is told of clips `[B, 3, T, H, W]`."""
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(clip))]
    x_0 = family.encode_video(pipe, clip).mean
    return family.conditions(pipe, {"video": clip}, x_0, generators)


def some_clips(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_oracle_lands_on_x_0(made, picture):
    family, pipe = opened(made(svd))

    def sampled(pipe):
        call = {**CALL, "num_inference_steps": 7, "max_guidance_scale": 1.0}
        return pipe(Image.open(picture), **call, output_type="latent").frames.transpose(1, 2)

    told = conditions(family, pipe, some_clips(1))
    lands_on_x_0(made(svd), "unet", sampled, (1, 4, 3, 8, 12), condition=told, clean=lambda sample: sample[:, :, :4])


def test_training_asks_for_what_the_sampler_asks(made, picture, monkeypatch):
    family, pipe = opened(made(svd))
    heard = []

    def hear(unet, args, kwargs):
        heard.append(inspect.signature(unet.forward).bind(*args, **kwargs).arguments)

    pipe.unet.register_forward_pre_hook(hear, with_kwargs=True)
    image = Image.open(picture)
    pipe(image, **CALL, max_guidance_scale=1.0, noise_aug_strength=0.0, output_type="latent")
    sampled = heard[-1]
    monkeypatch.setattr(svd_family, "NOISE_LOG_MEAN", -100.0)  # no noise on the first frame, and it is never left out
    monkeypatch.setattr(svd_family, "DROPPED", 0.0)
    frame = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None, :, None]
    told = conditions(family, pipe, to_float(frame).expand(1, 3, 3, 16, 24))
    x_t = sampled["sample"][:, :, :4].transpose(1, 2)
    family.predict(pipe, {"unet": pipe.unet}, x_t, sampled["timestep"][None], told)
    asked = heard[-1]
    assert asked is not sampled
    for name in ("sample", "encoder_hidden_states", "added_time_ids"):
        torch.testing.assert_close(asked[name], sampled[name], atol=1e-5, rtol=1e-4)


def test_first_frames_have_noise_and_are_left_out_at_times(made):
    family, pipe = opened(made(svd))
    clip = some_clips(1)
    seen = [conditions(family, pipe, clip, seed) for seed in range(40)]
    assert all(told["added_time_ids"][0, :2].tolist() == [6.0, 127.0] for told in seen)
    noise = torch.stack([told["added_time_ids"][0, 2] for told in seen]).log()
    assert -3.3 < noise.mean() < -2.7
    assert 0.3 < noise.std() < 0.7
    pairs = [(bool(told["encoder_hidden_states"].any()), bool(told["image_latents"].any())) for told in seen]
    assert set(pairs) == {(True, True), (True, False), (False, True), (False, False)}
    assert 0.5 < pairs.count((True, True)) / len(pairs) < 0.9
    assert torch.equal(conditions(family, pipe, clip, 3)["image_latents"], seen[3]["image_latents"])


def test_the_loss_depends_on_the_first_frame_its_noise_and_the_level(made):
    family, pipe = opened(made(svd))
    for norm in (module for module in pipe.unet.modules() if isinstance(module, torch.nn.GroupNorm)):
        norm.num_groups = 1  # with a group for each of so few channels, what is added to a channel is taken away again
    objective = TextToVideoDiffusion(family.schedule(pipe), prediction=family.prediction(pipe))
    clip = some_clips(1)
    x_0, told = family.encode_video(pipe, clip).mean, conditions(family, pipe, clip)
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2))

    def loss(u: float = 0.5, **other: torch.Tensor) -> float:
        def predict(x_t, t, condition):
            return family.predict(pipe, family.denoisers(pipe), x_t, t, condition)

        with torch.no_grad():
            return float(objective.loss(predict, Batch(x_0, noise, torch.tensor([u]), {**told, **other})))

    assert loss() == loss()
    changes = [{name: value + 0.5} for name, value in told.items()] + [{"u": 0.9}]
    assert len({loss(), *(loss(**change) for change in changes)}) == 5


def test_frames_are_decoded_as_in_the_pipeline(made):
    _, pipe = opened(made(svd))
    latents = torch.randn(1, 4, 10, 8, 12, generator=torch.Generator().manual_seed(3))
    theirs = pipe.decode_latents(latents.transpose(1, 2), 10, 8)
    torch.testing.assert_close(decode(pipe.vae, latents), theirs, atol=1e-5, rtol=1e-4)


def test_the_codec_leaves_float16_while_it_encodes(made):
    family, pipe = opened(made(svd))
    pipe.vae.half()
    seen = set()
    pipe.vae.encoder.register_forward_pre_hook(lambda encoder, args: seen.add(args[0].dtype))
    conditions(family, pipe, some_clips(1))
    assert seen == {torch.float32}
    assert pipe.vae.dtype == torch.float16


def test_full_training(made, few_clips, tmp_path, picture):
    own = ("--gradient_checkpointing", "true")
    full_training_works(made(svd), few_clips, tmp_path / "run", starting(picture), *FLAGS, *own)


def test_lora_training(made, few_clips, tmp_path, picture):
    lora_training_works(made(svd), few_clips, tmp_path / "run", starting(picture), None, *FLAGS)


def test_previews_begin_with_a_clip_s_first_frame(made, few_clips, tmp_path):
    own = ("--sample_steps", "2", "--num_samples", "1", "--max_preview_steps", "2")
    trained(made(svd), few_clips, tmp_path / "run", *FLAGS, *own)
    (made_video,) = (tmp_path / "run" / "samples" / "000002").glob("*.mp4")
    assert video.read(made_video).frames.shape == (3, 16, 24, 3)


def test_training_with_texts(made, following, picture, tmp_path):
    family, pipe = opened(following)
    assert family.tasks(pipe) == ("image-to-video", "text-to-video")
    assert learned(opened(made(svd))[1], pipe, "unet")
    assert not (following / "image_encoder").exists()
    family.save(pipe, tmp_path / "again")
    again = opened(tmp_path / "again")
    frames = {}
    for settings in (SMALL, starting(picture)):
        for prompt in ("a red circle", "blue"):
            (result,) = generate(family, pipe, [prompt], settings)
            assert np.array_equal(next(generate(*again, [prompt], settings)).frames, result.frames)
            frames[settings.image, prompt] = result.frames
    assert len({value.tobytes() for value in frames.values()}) == 4
    (other,) = generate(
        family, pipe, ["blue"], Settings(**CALL, guidance_scale=2.0, seed=5, negative_prompt="a circle")
    )
    assert not np.array_equal(other.frames, frames[None, "blue"])
    command = [
        "generate",
        "--model",
        str(following.parent),
        "--prompts",
        "blue",
        "--image",
        str(picture),
        "--seed",
        "5",
    ]
    command += [
        *FLAGS,
        "--num_inference_steps",
        "3",
        "--guidance_scale",
        "2",
        "--output_video",
        str(tmp_path / "a.mp4"),
    ]
    assert run([*command, "--save_frames"]) == 0
    first = np.asarray(Image.open(tmp_path / "a_frames" / "frame_0000.png"))
    assert np.array_equal(first, frames[picture, "blue"][0])


def test_texts_reach_the_loss_and_their_projection_learns(following):
    family, pipe = opened(following)
    modules = family.trainable(pipe)
    pipe.text_projection.requires_grad_(True)
    clip = some_clips(2)
    x_0 = family.encode_video(pipe, clip).mean
    told = conditions(family, pipe, clip)
    next(generate(family, pipe, ["red"], SMALL))  # a sample video without a first frame leaves no trace
    torch.testing.assert_close(conditions(family, pipe, clip), told)
    assert told["image_latents"].any()
    t = family.schedule(pipe).timesteps(torch.tensor([0.4, 0.6]))
    red, blue = (
        family.predict(pipe, modules, x_0, t, {**family.encode_text(pipe, modules, [text] * 2), **told})
        for text in ("red", "blue")
    )
    assert not torch.equal(red, blue)
    red.square().mean().backward()
    assert pipe.text_projection.linear.weight.grad.abs().max() > 0


def test_a_model_that_follows_texts_is_adapted_further(following, few_clips, tmp_path):
    lora_training_works(following, few_clips, tmp_path / "run", SMALL, None, *FLAGS)


def test_what_it_cannot_do_is_said(made, few_clips, tmp_path, following, picture):
    family, pipe = opened(made(svd))
    with pytest.raises(UsageError, match=r"does not do text-to-video, only image-to-video\. Give its first frame"):
        next(generate(family, pipe, ["a"], SMALL))
    with pytest.raises(UsageError, match="only euler"):
        next(generate(family, pipe, ["a"], starting(picture, scheduler="dpm++")))
    with pytest.raises(UsageError, match="height 17"):
        family.rules(pipe).check(Bucket(4, 17, 16))
    with pytest.raises(UsageError, match="Leave out --load_tensors"):
        family.conditions(pipe, {"mean": torch.zeros(1)}, torch.zeros(1, 4, 3, 8, 12), [])
    with pytest.raises(UsageError, match="takes no motion_adapter"):
        opened(made(svd), parts={"motion_adapter": tmp_path})
    with pytest.raises(ModelError, match=r"image model .* cannot be opened"):
        opened(made(svd), parts={"image_model": tmp_path})
    with pytest.raises(UsageError, match="leave out --text_encoder"):
        trained(following, few_clips, tmp_path / "a", "--text_encoder", "clip-b32", *FLAGS)
    with pytest.raises(UsageError, match="or --lora"):
        trained(made(svd), few_clips, tmp_path / "b", "--lora", "--text_encoder", "clip-b32", *FLAGS)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableVideoDiffusionPipeline"}')
    with pytest.raises(ModelError, match="cannot be opened"):
        opened(tmp_path)
