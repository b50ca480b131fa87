"""LTX-Video of both generations: the frames of plain diffusers, the oracle, training with first frames and without."""

from pathlib import Path

import pytest
import torch
from checkpoints import t5_text
from contract import (
    aligned,
    asked_in_training,
    equals_diffusers,
    full_training_works,
    lands_on_x_0,
    lora_training_works,
    opened,
)
from PIL import Image
from safetensors.torch import load_file

from text2video import video
from text2video.diffusion.objectives import Batch, TextToVideoDiffusion
from text2video.diffusion.schedules import SizedFlow
from text2video.errors import ModelError, UsageError
from text2video.families import ltx_video
from text2video.families.export import export
from text2video.generation import Settings, generate
from text2video.models.codecs import encode
from text2video.sizes import Bucket

CALL = {"num_frames": 9, "height": 64, "width": 64, "num_inference_steps": 3, "guidance_scale": 3.0}
FLAGS = ("--num_frames", "9", "--frame_size", "64", "--fps", "8")
LATENTS = (1, 4, 2, 2, 2)


def checkpoint(folder: Path, kind: str, dynamic: bool, **codec) -> None:
    import diffusers

    text_encoder, tokenizer = t5_text()
    torch.manual_seed(6)
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(4, 4, 4, 4),
        decoder_block_out_channels=(4, 4, 4, 4),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        **codec,
    )
    vae.latents_mean += torch.tensor([0.1, -0.2, 0.3, 0.0])
    vae.latents_std *= torch.tensor([0.5, 1.0, 2.0, 1.5])
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=16,
    )
    sized = {"base_image_seq_len": 1024, "max_image_seq_len": 4096, "base_shift": 0.95, "max_shift": 2.05}
    more = {"use_dynamic_shifting": True, "shift_terminal": 0.1, **sized} if dynamic else {}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**more)
    getattr(diffusers, kind)(scheduler, vae, text_encoder, tokenizer, transformer).save_pretrained(folder)


def early(folder: Path) -> None:
    """As 0.9.1: a decoder that denoises, with noise of its own."""
    noise = (True, True, True, True, False)
    checkpoint(folder, "LTXPipeline", True, timestep_conditioning=True, decoder_inject_noise=noise)


def image(folder: Path) -> None:
    """As 0.9, saved as the image-to-video pipeline; a decoder that does not denoise."""
    checkpoint(folder, "LTXImageToVideoPipeline", True)


def later(folder: Path) -> None:
    """As 0.9.5."""
    checkpoint(folder, "LTXConditionPipeline", False, timestep_conditioning=True)


@pytest.fixture
def picture(few_clips) -> Path:
    """A clip, whose first frame is taken."""
    return sorted((few_clips / "videos").iterdir())[0]


def first_frame(picture: Path) -> Image.Image:
    return Image.fromarray(video.sample(picture, 1, height=64, width=64).frames[0])


def bare(kind: str, folder: Path, generator: torch.Generator, adapter: Path | None = None, **call):
    import diffusers

    pipe = getattr(diffusers, kind).from_pretrained(folder)
    if adapter:
        pipe.load_lora_weights(adapter)
    if pipe.vae.config.timestep_conditioning:
        call |= {"decode_timestep": 0.05, "decode_noise_scale": 0.025}
    torch.manual_seed(generator.initial_seed())
    call = {**CALL, "frame_rate": 24.0, "negative_prompt": ltx_video.LTXVideo.standard.negative_prompt, **call}
    return aligned(pipe)(prompt="a red circle", **call, generator=generator, output_type="pt").frames[0]


@pytest.mark.parametrize(
    ("make", "kind"),
    [(early, "LTXPipeline"), (early, "LTXImageToVideoPipeline"), (image, "LTXPipeline"),
     (later, "LTXConditionPipeline")],
)  # fmt: skip
def test_frames_equal_those_of_diffusers(make, kind, made, picture):
    folder = made(make)
    start = {} if kind == "LTXPipeline" else {"image": picture}
    call = {"image": first_frame(picture)} if start else {}
    settings = Settings(**CALL, **start, fps=12.0, seed=5)
    equals_diffusers(folder, lambda generator: bare(kind, folder, generator, frame_rate=12.0, **call), settings)


def test_both_ends_and_a_video_equal_diffusers(made, picture):
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    folder, kind = made(later), "LTXConditionPipeline"
    frame = first_frame(picture)

    def ends(generator: torch.Generator) -> torch.Tensor:
        conditions = [LTXVideoCondition(frame), LTXVideoCondition(frame, frame_index=8)]
        return bare(kind, folder, generator, conditions=conditions)

    equals_diffusers(folder, ends, Settings(**CALL, image=picture, last_image=picture, seed=5))

    def from_video(generator: torch.Generator) -> torch.Tensor:
        frames = [Image.fromarray(f) for f in video.sample(picture, 9, fps=24.0, height=64, width=64).frames]
        _, pipe = opened(folder)
        with torch.no_grad():
            mean = pipe.vae.encode(pipe.video_processor.preprocess_video(frames)).latent_dist.mean
        latents = pipe._normalize_latents(mean, pipe.vae.latents_mean, pipe.vae.latents_std)
        return bare(kind, folder, generator, latents=latents, denoise_strength=0.7)

    equals_diffusers(folder, from_video, Settings(**CALL, video=picture, strength=0.7, seed=5))


@pytest.mark.parametrize(("make", "kind"), [(early, "LTXPipeline"), (image, "LTXImageToVideoPipeline"), (later, "")])
def test_the_oracle_lands_on_x_0(make, kind, made, picture):
    def run(pipe):
        family, _ = opened(made(make))
        task = "image-to-video" if "Image" in kind else "text-to-video"
        start = {"image": first_frame(picture)} if "Image" in kind else {}
        call = {**CALL, "guidance_scale": 1.0, "num_inference_steps": 6, "output_type": "latent", **start}
        found = family.runner(pipe, task)(prompt="a", generator=torch.Generator().manual_seed(1), **call).frames
        found = found if found.ndim == 5 else pipe._unpack_latents(found, *LATENTS[2:])
        if start:  # the first frame is that of the picture
            found[:, :, 0] = pipe._unpack_latents(pipe.transformer.x_0, *LATENTS[2:])[:, :, 0]
        return found

    lands_on_x_0(made(make), "transformer", run, LATENTS)


@pytest.mark.parametrize("make", [early, image, later])
def test_training_asks_as_the_sampler_does(make, made, picture, monkeypatch):
    monkeypatch.setattr(ltx_video, "_FIRST_FRAME", 1.0 if make is image else 0.0)
    family, pipe = opened(made(make))
    family.adapt(pipe, Bucket(9, 64, 64), 12.0)
    call = {**CALL, "guidance_scale": 1.0, "num_inference_steps": 2, "frame_rate": 12.0}
    if make is image:
        call["image"] = first_frame(picture)

    def ask(modules, sampled):
        x_t = pipe._unpack_latents(sampled["hidden_states"], *LATENTS[2:])
        condition = family.encode_text(pipe, modules, ["a red circle"])
        condition |= family.conditions(pipe, {}, x_t, [torch.Generator()]) if make is image else {}
        with torch.no_grad():
            family.predict(pipe, modules, x_t, sampled["timestep"].reshape(-1)[-1:], condition)
        sampled["timestep"] = sampled["timestep"].reshape(1, -1) if make is image else sampled["timestep"].reshape(-1)

    asked_in_training(family, pipe, "transformer", lambda pipe: pipe(prompt="a red circle", **call), ask)


def test_a_first_frame_that_is_given_is_seen_clean_and_not_learned(made, monkeypatch):
    family, pipe = opened(made(early))
    objective = TextToVideoDiffusion(family.schedule(pipe), prediction="flow", timesteps="logit_normal")
    x_0, noise = torch.randn(2, 2, 4, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    other = torch.cat([x_0[:, :, :1] + 1, x_0[:, :, 1:]], dim=2)
    text = family.encode_text(pipe, {}, ["a red circle", "a blue square"])
    monkeypatch.setattr(ltx_video, "_FIRST_FRAME", 1.0)

    def loss(first_from, learned_from) -> torch.Tensor:
        given = family.conditions(pipe, {}, first_from, [torch.Generator()] * 2)
        batch = Batch(learned_from, noise, torch.tensor([0.3, 0.8]), text | given)
        return objective.loss(lambda *asked: family.predict(pipe, family.denoisers(pipe), *asked), batch)

    assert loss(x_0, x_0) != loss(other, other)
    answer = family.predict(
        pipe, family.denoisers(pipe), x_0 + 0.5 * (noise - x_0), torch.tensor([500.0] * 2),
        text | family.conditions(pipe, {}, x_0, [torch.Generator()] * 2),
    )  # fmt: skip
    torch.testing.assert_close(answer[:, :, 0], (noise - x_0)[:, :, 0])
    assert not torch.isclose(answer[:, :, 1], (noise - x_0)[:, :, 1]).all()


def test_first_frames_are_given_now_and_then_and_never_for_a_picture(made):
    family, pipe = opened(made(early))
    some = [torch.Generator().manual_seed(seed) for seed in range(300)]
    given = family.conditions(pipe, {}, torch.zeros(300, 4, 2, 2, 2), some)["first_frame_given"]
    assert 15 < given.sum() < 45
    one = family.conditions(pipe, {}, torch.zeros(300, 4, 1, 2, 2), some)["first_frame_given"]
    assert not one.any()


def test_it_works_without_what_training_leaves_on_the_disk(made):
    family, whole = opened(made(later))
    part = family.open(made(later), torch.device("cpu"), trainable_only=True)
    assert part.vae is None
    assert family.rules(part) == family.rules(whole)
    x_t = torch.randn(LATENTS, generator=torch.Generator().manual_seed(1))
    text = family.encode_text(whole, {}, ["a red circle"])
    given = family.conditions(part, {}, x_t, [torch.Generator().manual_seed(1)])
    answers = [
        family.predict(pipe, family.denoisers(pipe), x_t, torch.tensor([500.0]), text | given) for pipe in (whole, part)
    ]
    torch.testing.assert_close(*answers)


def test_the_first_latents_are_those_of_the_first_frame(made, picture):
    _, pipe = opened(made(early))
    frames = torch.as_tensor(video.sample(picture, 9, height=64, width=64).frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    torch.testing.assert_close(encode(pipe.vae, frames).mean[:, :, :1], encode(pipe.vae, frames[:, :, :1]).mean)


@pytest.mark.parametrize("make", [early, later])
def test_larger_videos_are_trained_on_more_noise(make, made):
    family, pipe = opened(made(make))
    schedule = family.schedule(pipe)
    objective = TextToVideoDiffusion(schedule, prediction="flow", timesteps=family.timesteps)
    middle = torch.tensor([0.5])
    for shape, log_shift in [((4, 16, 16), 0.95), ((16, 16, 16), 2.05)]:
        expected = torch.sigmoid(torch.tensor([log_shift]))
        torch.testing.assert_close(objective.timesteps(middle, shape) / 1000, expected)
    assert isinstance(schedule, SizedFlow)


@pytest.mark.parametrize("make", [early, later])
def test_full_training(make, made, few_clips, tmp_path):
    full_training_works(made(make), few_clips, tmp_path / "run", Settings(**CALL), *FLAGS, "--gradient_checkpointing")


@pytest.mark.parametrize(("make", "kind"), [(early, "LTXPipeline"), (later, "LTXConditionPipeline")])
def test_lora_training(make, kind, made, few_clips, tmp_path, picture, monkeypatch):
    monkeypatch.setattr(ltx_video, "_FIRST_FRAME", 0.5)
    folder = made(make)
    start = {"image": picture} if make is later else {}
    call = {"image": first_frame(picture)} if start else {}

    def plain(adapter: Path, generator: torch.Generator) -> torch.Tensor:
        return bare(kind, folder, generator, adapter, **call)

    settings = Settings(**CALL, **start, seed=3)
    final = lora_training_works(folder, few_clips, tmp_path / "run", settings, plain, *FLAGS)
    (result,) = export(final, "comfyui", tmp_path / "comfyui")
    assert result.applied.matched == len(load_file(result.path)) > 0
    assert all(key.startswith("diffusion_model.transformer_blocks.") for key in load_file(result.path))


def test_what_it_cannot_do_is_said(made, picture, tmp_path):
    family, pipe = opened(made(early))
    with pytest.raises(UsageError, match="does not do video-to-video, only text-to-video, image-to-video"):
        next(generate(family, pipe, ["a"], Settings(**CALL, video=picture)))
    with pytest.raises(UsageError, match=r"num_frames 16 is not 8k\+1 .*; height 48 is no multiple of 32"):
        family.rules(pipe).check(Bucket(16, 48, 64))
    with pytest.raises(UsageError, match="no sampler 'unipc'"):
        family.use_sampler(pipe, "unipc")
    (tmp_path / "model_index.json").write_text('{"_class_name": "LTXPipeline"}')
    with pytest.raises(ModelError, match=r"ltx_video model .* cannot be opened"):
        opened(tmp_path)
