"""HunyuanVideo 1.5: the frames of plain diffusers, the oracle, training, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from contract import (
    aligned,
    asks_as_diffusers,
    equals_diffusers,
    full_training_works,
    lands_on_x_0,
    lora_training_works,
    opened,
)
from PIL import Image
from tokenizers import pre_tokenizers

from text2video import video
from text2video.errors import UsageError
from text2video.families.lora import FILE
from text2video.generation import Settings, generate
from text2video.models.codecs import geometry_of
from text2video.sizes import Bucket

CALL = {"num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 2}
SMALL = Settings(**CALL, guidance_scale=3.0, seed=5)
FLAGS = ("--num_frames", "5", "--frame_size", "32")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def parts():
    """Qwen2.5-VL, byT5, codec, transformer, scheduler and guider as published, but small."""
    from diffusers import (
        AutoencoderKLHunyuanVideo15,
        ClassifierFreeGuidance,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideo15Transformer3DModel,
    )
    from transformers import ByT5Tokenizer, Qwen2Tokenizer, T5Config, T5EncoderModel
    from transformers.models.qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

    letters = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Qwen2Tokenizer({letter: place for place, letter in enumerate(letters)}, chat_template=CHAT)
    tokenizer.add_tokens(letters[1:3], special_tokens=True)
    torch.manual_seed(6)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2]}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    reader = Qwen2_5_VLTextModel(
        Qwen2_5_VLTextConfig(vocab_size=len(letters), num_key_value_heads=2, rope_parameters=rope, **sizes)
    )
    speller = T5EncoderModel(T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    vae = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1)
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2, num_refiner_layers=1,
        text_embed_dim=16, text_embed_2_dim=16, image_embed_dim=8, rope_axes_dim=(4, 2, 2), target_size=32,
    )  # fmt: skip
    return {
        "text_encoder": reader,
        "tokenizer": tokenizer,
        "transformer": transformer,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0),
        "text_encoder_2": speller,
        "tokenizer_2": ByT5Tokenizer(),
        "guider": ClassifierFreeGuidance(guidance_scale=6.0),
    }


def hunyuan(folder: Path) -> None:
    from diffusers import HunyuanVideo15Pipeline

    HunyuanVideo15Pipeline(**parts()).save_pretrained(folder)


def hunyuan_image(folder: Path) -> None:
    from diffusers import HunyuanVideo15ImageToVideoPipeline
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=8, patch_size=4))
    processor = SiglipImageProcessor(size={"height": 8, "width": 8})
    found = {"image_encoder": encoder, "feature_extractor": processor}
    HunyuanVideo15ImageToVideoPipeline(**parts(), **found).save_pretrained(folder)


def plain(folder: Path, generator: torch.Generator, adapter: Path | None = None, **given) -> torch.Tensor:
    import diffusers

    pipe = aligned(diffusers.DiffusionPipeline.from_pretrained(folder))
    pipe.guider = pipe.guider.new(guidance_scale=3.0)
    if adapter:  # its pipelines have no loader of adapters, its transformer has
        pipe.transformer.load_lora_adapter(adapter / FILE)
    for part in (pipe.transformer, pipe.vae):
        for parameter in part.parameters():  # where weights lie in memory changes matrix products by 1e-7
            parameter.data = parameter.data.clone()
    call = {name: value for name, value in CALL.items() if not given or name not in ("height", "width")}
    return pipe(prompt="a red circle", generator=generator, output_type="pt", **call, **given).frames[0]


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "first.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
    return path


def test_text_to_video_equals_diffusers(made):
    folder = made(hunyuan)
    equals_diffusers(folder, lambda generator: plain(folder, generator), SMALL)


def test_image_to_video_equals_diffusers(made, picture):
    folder, first = made(hunyuan_image), Image.fromarray(video.sample(picture, 1, height=32, width=32).frames[0])
    settings = Settings(**CALL, guidance_scale=3.0, image=picture, seed=5)
    equals_diffusers(folder, lambda generator: plain(folder, generator, image=first), settings)


def test_a_video_from_an_image_has_the_size_that_is_asked_for(made, picture):
    """Plain diffusers chooses one of its own."""
    family, pipe = opened(made(hunyuan_image))
    own = family.defaults(pipe)
    (result,) = generate(family, pipe, ["a"], Settings(**{**CALL, "width": 48}, image=picture))
    assert result.frames.shape == (5, 32, 48, 3)
    assert family.defaults(pipe) == own
    assert (own.height, own.width) == (32, 32)  # diffusers' choice at 16:9 for what the model was trained on


def test_guidance_is_the_guiders_and_stays_what_it_was(made):
    family, pipe = opened(made(hunyuan))
    videos = [
        next(generate(family, pipe, ["a"], Settings(**CALL, guidance_scale=scale))).frames for scale in (1.0, 3.0)
    ]
    assert not np.array_equal(*videos)
    assert pipe.guider.guidance_scale == family.defaults(pipe).guidance_scale == 6.0


def test_text_between_quotation_marks_is_spelled(made):
    family, pipe = opened(made(hunyuan))
    text = family.encode_text(pipe, {}, ['a sign that says "OPEN"', "a sign"])
    assert text["encoder_hidden_states"].shape == (2, 1000, 16)
    assert text["encoder_attention_mask_2"].sum(1).tolist() == [len('Text "OPEN". ') + 1, 0]


def test_the_oracle_lands_on_x_0(made):
    def run(pipe):
        pipe.guider.guidance_scale = 1.0
        return pipe("a", **{**CALL, "num_inference_steps": 7}, output_type="latent").frames

    lands_on_x_0(made(hunyuan), "transformer", run, (1, 4, 2, 2, 2), clean=lambda sample: sample[:, :4])


@pytest.mark.parametrize("make", [hunyuan, hunyuan_image])
def test_training_asks_as_the_pipeline_does(made, picture, make):
    first = Image.open(picture)
    frames = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    frames[0, :, 0] = torch.from_numpy(np.array(first)).permute(2, 0, 1) / 127.5 - 1

    def run(pipe):
        pipe.guider.guidance_scale = 1.0
        given = {"image": first} if make is hunyuan_image else {"height": 32, "width": 32}
        pipe(prompt="a red circle", num_frames=5, num_inference_steps=2, **given)

    asks_as_diffusers(made(make), run, frames)


def test_what_is_learned_depends_on_the_first_frame(made):
    family, pipe = opened(made(hunyuan_image))
    frames = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x_0, text = family.encode_video(pipe, frames).mean, family.encode_text(pipe, {}, ["a"])
    told = family.conditions(pipe, {"video": frames}, x_0, [])
    answers = [
        family.predict(pipe, family.denoisers(pipe), x_0, torch.tensor([500.0]), text | told | {name: -told[name]})
        for name in ("first", "image_embeds")
    ]
    usual = family.predict(pipe, family.denoisers(pipe), x_0, torch.tensor([500.0]), text | told)
    assert all((answer - usual).abs().max() > 1e-4 for answer in answers)


def test_full_training(made, few_clips, tmp_path):
    full_training_works(made(hunyuan), few_clips, tmp_path / "run", SMALL, *FLAGS, "--gradient_checkpointing")


def test_training_from_first_frames(made, few_clips, tmp_path, picture):
    settings = Settings(**CALL, guidance_scale=1.0, image=picture, seed=5)
    full_training_works(made(hunyuan_image), few_clips, tmp_path / "run", settings, *FLAGS)


def test_lora_training(made, few_clips, tmp_path):
    folder = made(hunyuan)

    def bare(adapter: Path, generator: torch.Generator) -> torch.Tensor:
        return plain(folder, generator, adapter)

    lora_training_works(folder, few_clips, tmp_path / "run", SMALL, bare, *FLAGS)


def test_what_a_model_is_and_cannot_do_is_said(made, picture):
    family, pipe = opened(made(hunyuan))
    own = family.defaults(pipe)
    assert (own.num_frames, own.fps, own.num_inference_steps) == (121, 24.0, 50)
    assert family.schedule(pipe).shift == 5
    assert geometry_of(pipe.vae).strides == (4, 16, 16)
    with pytest.raises(UsageError, match="does not do image-to-video, only text-to-video"):
        next(generate(family, pipe, ["a"], Settings(**CALL, image=picture)))
    with pytest.raises(UsageError, match="Choose flow"):
        next(generate(family, pipe, ["a"], Settings(**CALL, scheduler="unipc")))
    with pytest.raises(UsageError, match="height 24"):
        family.rules(pipe).check(Bucket(5, 24, 32))
    family, pipe = opened(made(hunyuan_image))
    with pytest.raises(UsageError, match="--save_image_latents, or leave out --load_tensors"):
        family.conditions(pipe, {"mean": torch.zeros(1)}, torch.zeros(1, 4, 2, 2, 2), [])
    pipe.transformer.register_to_config(use_meanflow=True)
    with pytest.raises(UsageError, match="step-distilled"):
        family.predict(pipe, {}, torch.zeros(1, 4, 2, 2, 2), torch.zeros(1), {})
