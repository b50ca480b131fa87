"""CogVideoX 1.0 and 1.5: the frames of plain diffusers, the oracle, training from text and from images."""

from pathlib import Path

import numpy as np
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

from text2video import video
from text2video.errors import DataError, ModelError, UsageError
from text2video.families import cogvideox
from text2video.generation import Settings, generate
from text2video.models.codecs import Latents
from text2video.sizes import Bucket

TOKENS = 6
CALL = {"num_frames": 9, "height": 32, "width": 32, "num_inference_steps": 3, "guidance_scale": 3.0}


def checkpoint(folder: Path, kind: str = "CogVideoXPipeline", scheduler: str = "CogVideoXDPMScheduler", **config):
    """A tiny CogVideoX; `config` is of the transformer."""
    import diffusers

    text_encoder, tokenizer = t5_text()
    torch.manual_seed(5)
    vae = diffusers.AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        scaling_factor=0.7,
        sample_height=32,
        sample_width=32,
        invert_scale_latents="ofs_embed_dim" in config,
    )
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8 if kind == "CogVideoXImageToVideoPipeline" else 4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=16,
        num_layers=1,
        sample_width=4,
        sample_height=4,
        sample_frames=9,
        max_text_seq_length=TOKENS,
        **config,
    )
    schedule = getattr(diffusers, scheduler)(
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0 if config else 3.0,
    )
    pipe = getattr(diffusers, kind)(tokenizer, text_encoder, vae, transformer, schedule)
    pipe.save_pretrained(folder)


def two(folder: Path) -> None:
    """As the 2B model: sinusoidal positions, DDIM."""
    checkpoint(folder, scheduler="CogVideoXDDIMScheduler")


def five(folder: Path) -> None:
    """As the 5B model: rotary positions, DPM."""
    checkpoint(folder, use_rotary_positional_embeddings=True)


def five_image(folder: Path) -> None:
    """As the 5B image-to-video model: learned positions too."""
    kind = "CogVideoXImageToVideoPipeline"
    checkpoint(folder, kind, use_rotary_positional_embeddings=True, use_learned_positional_embeddings=True)


def later(folder: Path) -> None:
    """As version 1.5: frames in pairs."""
    checkpoint(folder, use_rotary_positional_embeddings=True, patch_size_t=2, patch_bias=False)


def later_image(folder: Path) -> None:
    """As version 1.5 image-to-video."""
    kind = "CogVideoXImageToVideoPipeline"
    rotary = {"use_rotary_positional_embeddings": True, "patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 8}
    checkpoint(folder, kind, **rotary)


MAKERS = [two, five, five_image, later, later_image]


def call_of(make) -> dict:
    """Version 1.5 takes 16k+1 frames."""
    return CALL | {"num_frames": 17} if make in (later, later_image) else CALL


@pytest.fixture
def picture(few_clips) -> Path:
    """A clip, whose first frame is taken."""
    return sorted((few_clips / "videos").iterdir())[0]


def first_frame(picture: Path) -> Image.Image:
    return Image.fromarray(video.sample(picture, 1, height=32, width=32).frames[0])


def bare(folder: Path, generator: torch.Generator, adapter: Path | None = None, prompt="a red circle", **call):
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder)
    if adapter:
        pipe.load_lora_weights(adapter)
    call = {**CALL, "max_sequence_length": TOKENS, **call}
    return aligned(pipe)(prompt=prompt, **call, generator=generator, output_type="pt").frames[0]


@pytest.mark.parametrize("make", MAKERS)
def test_frames_equal_those_of_diffusers(make, made, picture):
    folder, call = made(make), call_of(make)
    image = {"image": picture} if make in (five_image, later_image) else {}
    bare_call = call | ({"image": first_frame(picture)} if image else {})
    settings = Settings(**call, **image, seed=5)
    result = equals_diffusers(folder, lambda generator: bare(folder, generator, **bare_call), settings)
    assert len(result.frames) == call["num_frames"]


def test_video_to_video_equals_diffusers(made, picture):
    from diffusers import CogVideoXVideoToVideoPipeline

    folder = made(five)
    call = {"height": 32, "width": 32, "num_inference_steps": 4, "guidance_scale": 3.0, "strength": 0.7}

    def plain(generator: torch.Generator) -> torch.Tensor:
        frames = [Image.fromarray(f) for f in video.sample(picture, 9, fps=8.0, height=32, width=32).frames]
        pipe = CogVideoXVideoToVideoPipeline.from_pretrained(folder)
        more = {"max_sequence_length": TOKENS, "use_dynamic_cfg": True, "output_type": "pt"}
        return pipe(frames, "a red circle", **call, **more, generator=generator).frames[0]

    equals_diffusers(folder, plain, Settings(num_frames=9, video=picture, options={"use_dynamic_cfg": True}, **call))


def test_another_task_leaves_the_weights_as_they_are(made):
    family, _ = opened(made(five))
    pipe = family.open(made(five), torch.device("cpu"), torch.bfloat16)
    other = family.runner(pipe, "video-to-video")
    assert other.transformer is pipe.transformer
    assert {part.dtype for part in (other.transformer, other.vae, other.text_encoder)} == {torch.bfloat16}


@pytest.mark.parametrize("sampler", ["ddim", "dpm++sde"])
@pytest.mark.parametrize("make", MAKERS)
def test_the_oracle_lands_on_x_0(make, sampler, made, picture):
    folder, call = made(make), call_of(make)
    latents = (1, 4, 6 if call["num_frames"] == 17 else 3, 4, 4)
    image = {"image": first_frame(picture)} if make in (five_image, later_image) else {}
    condition = {"encoder_hidden_states": torch.zeros(1, TOKENS, 16)}
    condition |= {"image_latents": torch.zeros(latents)} if image else {}

    def run(pipe):
        opened(folder)[0].use_sampler(pipe, sampler)
        generator = torch.Generator().manual_seed(1)
        more = {"max_sequence_length": TOKENS, "output_type": "latent", "generator": generator}
        return pipe(prompt="a", **image, **call | {"guidance_scale": 1.0}, **more).frames.transpose(1, 2)

    lands_on_x_0(folder, "transformer", run, latents, condition=condition, clean=lambda sample: sample[:, :, :4])


@pytest.mark.parametrize("make", MAKERS)
def test_training_asks_as_the_sampler_does(make, made, picture, monkeypatch):
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean)
    monkeypatch.setattr(Latents, "sample", lambda self, noise: self.mean)
    monkeypatch.setattr(cogvideox, "_NOISE_MEAN", -torch.inf)
    monkeypatch.setattr(cogvideox, "_IMAGE_DROPOUT", 0.0)
    family, pipe = opened(made(make))
    call = call_of(make) | {"guidance_scale": 1.0, "num_inference_steps": 2, "max_sequence_length": TOKENS}
    frame = video.sample(picture, 1, height=32, width=32).frames[0]
    if make in (five_image, later_image):
        call["image"] = Image.fromarray(frame)

    def ask(modules, sampled):
        x_t = sampled["hidden_states"].transpose(1, 2)[:, :4]
        clip = torch.as_tensor(frame).permute(2, 0, 1)[None, :, None].expand(-1, -1, 9, -1, -1) / 127.5 - 1
        condition = family.encode_text(pipe, modules, ["a red circle"])
        condition |= family.conditions(pipe, {"video": clip}, x_t, [torch.Generator()])
        with torch.no_grad():
            family.predict(pipe, modules, x_t, sampled["timestep"].float(), condition)

    asked_in_training(family, pipe, "transformer", lambda pipe: pipe(prompt="a red circle", **call), ask)


def test_the_published_loss_is_the_unweighted_error_of_v(made):
    family, pipe = opened(made(five))
    schedule, scheduler = family.schedule(pipe), pipe.scheduler
    x_0, noise, answer = torch.randn(3, 2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([3, 999])
    x_t = scheduler.add_noise(x_0, noise, t)
    weights = (1 / (1 - scheduler.alphas_cumprod[t])).view(-1, 1, 1, 1, 1)
    published = (weights * (scheduler.get_velocity(answer, x_t, t) - x_0) ** 2).mean()
    alpha, sigma = (level.view(-1, 1, 1, 1, 1) for level in schedule.alpha_sigma(t))
    assert family.prediction(pipe) == "v"
    assert alpha[1] == 0
    torch.testing.assert_close((answer - (alpha * noise - sigma * x_0)).square().mean(), published.float())


def test_a_first_frame_gets_noise_or_is_left_out(made):
    family, pipe = opened(made(later_image))
    clips = torch.rand(2, 3, 17, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    x_0 = family.encode_video(pipe, clips).mean
    assert x_0.shape == (2, 4, 6, 4, 4)
    assert torch.equal(x_0[:, :, 0], x_0[:, :, 1])

    def latents(seed: int, clips=clips) -> torch.Tensor:
        some = [torch.Generator().manual_seed(seed + clip) for clip in range(2)]
        return family.conditions(pipe, {"video": clips}, x_0, some)["image_latents"]

    first = latents(1)
    assert first.shape == x_0.shape
    assert not first[:, :, 1:].any()
    assert torch.equal(first, latents(1))
    assert not torch.equal(first, latents(5))
    assert not torch.equal(first, latents(1, clips.flip(-1)))
    left_out = [not latents(seed)[0].any() for seed in range(100, 200)]
    assert 0 < sum(left_out) < 20
    ahead = family.encode_video(pipe, clips[:, :, :1])
    items = {"mean": x_0, "image_mean": ahead.mean, "image_logvar": ahead.logvar}
    stored = family.conditions(pipe, items, x_0, [torch.Generator().manual_seed(clip) for clip in range(2)])
    assert stored["image_latents"].shape == x_0.shape
    with pytest.raises(DataError, match="with --save_image_latents"):
        family.conditions(pipe, {"mean": x_0}, x_0, [torch.Generator()] * 2)


@pytest.mark.parametrize("make", [two, later, five_image])
def test_full_training(make, made, few_clips, tmp_path, picture):
    call = call_of(make)
    image = {"image": picture} if make is five_image else {}
    flags = ("--num_frames", str(call["num_frames"]), "--frame_size", "32", "--gradient_checkpointing")
    full_training_works(made(make), few_clips, tmp_path / "run", Settings(**call, **image), *flags)


@pytest.mark.parametrize("make", [five, later_image])
def test_lora_training(make, made, few_clips, tmp_path, picture):
    folder, call = made(make), call_of(make)
    image = {"image": picture} if make is later_image else {}
    bare_call = call | ({"image": first_frame(picture)} if image else {})
    flags = ("--num_frames", str(call["num_frames"]), "--frame_size", "32")
    settings = Settings(**call, **image, seed=3)

    def plain(adapter: Path, generator: torch.Generator) -> torch.Tensor:
        return bare(folder, generator, adapter, **bare_call)

    lora_training_works(folder, few_clips, tmp_path / "run", settings, plain, *flags)


def test_it_works_without_what_training_leaves_on_the_disk(made, picture):
    family, whole = opened(made(later_image))
    whole.vae.register_to_config(scaling_factor=1.5)
    part = family.open(made(later_image), torch.device("cpu"), trainable_only=True)
    assert part.vae is None
    assert family.rules(part) == family.rules(whole)
    first = {"image_mean": torch.ones(1, 4, 2, 4, 4)}
    given = family.conditions(part, first, torch.zeros(1, 4, 6, 4, 4), [torch.Generator().manual_seed(1)])
    torch.testing.assert_close(given["image_latents"][0, 0, 0, 0, 0], torch.tensor(0.7**-2))
    assert family.runner(whole, "image-to-video").vae_scaling_factor_image == 1.5


def test_what_it_cannot_do_is_said(made, picture, tmp_path):
    family, pipe = opened(made(five_image))
    with pytest.raises(UsageError, match="does not do text-to-video, only image-to-video"):
        next(generate(family, pipe, ["a"], Settings(**CALL)))
    with pytest.raises(UsageError, match="height 48 is more than 32"):
        family.rules(pipe).check(Bucket(9, 48, 32))
    family, pipe = opened(made(later))
    with pytest.raises(UsageError, match=r"num_frames 9 is not 16k\+1 \(nearest: 1 or 17\)"):
        family.rules(pipe).check(Bucket(9, 32, 32))
    with pytest.raises(UsageError, match="width 48 is more than 32"):
        family.rules(pipe).check(Bucket(17, 32, 48))
    with pytest.raises(UsageError, match="does not do video-to-video"):
        next(generate(family, pipe, ["a"], Settings(**CALL | {"num_frames": 17}, video=picture)))
    family, pipe = opened(made(two))
    family.rules(pipe).check(Bucket(49, 480, 720))
    with pytest.raises(UsageError, match=r"num_frames 16 is not 8k\+1 \(nearest: 9 or 17\); width 724"):
        family.rules(pipe).check(Bucket(16, 480, 724))
    with pytest.raises(UsageError, match=r"no sampler .euler.\. Choose one of ddim"):
        family.use_sampler(pipe, "euler")
    (tmp_path / "model_index.json").write_text('{"_class_name": "CogVideoXPipeline"}')
    with pytest.raises(ModelError, match=r"cogvideox model .* cannot be opened"):
        opened(tmp_path)


def test_defaults_are_those_of_each_version(made):
    family, pipe = opened(made(five))
    assert (family.defaults(pipe).num_frames, family.defaults(pipe).fps) == (49, 8)
    family, pipe = opened(made(later_image))
    own = family.defaults(pipe)
    assert (own.num_frames, own.height, own.width, own.fps) == (81, 768, 1360, 16)
    family.adapt(pipe, Bucket(17, 32, 32), None)
    assert (family.defaults(pipe).num_frames, family.defaults(pipe).fps) == (17, 16)
    assert np.isclose(family.defaults(pipe).guidance_scale, 6)
