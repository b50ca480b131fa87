"""Wan: each kind of model gives the frames of plain diffusers, the oracle, training, and what is refused.

The oracle runs with the sampler `flow`: UniPC, which is published with the models, cuts timesteps to whole numbers.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import t5_text
from contract import (
    CPU,
    aligned,
    asks_as_diffusers,
    equals_diffusers,
    full_training_works,
    lands_on_x_0,
    lora_training_works,
    opened,
    trained,
)
from PIL import Image

from text2video import video
from text2video.errors import UsageError
from text2video.families.base import Opening
from text2video.families.export import deltas, export
from text2video.families.lora import FILE
from text2video.families.wan import Wan
from text2video.generation import Settings, generate
from text2video.sizes import Bucket

CALL = {"num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 3, "guidance_scale": 3.0}
SMALL = Settings(**CALL, negative_prompt="", seed=5)
FLAGS = ("--num_frames", "5", "--frame_size", "16")
LARGER = {**CALL, "height": 32, "width": 32}
BESIDE = {"in_channels": 12, "out_channels": 4}  # latents, a mask of 4, latents of what is known


def parts(channels: int = 4, **transformer):
    """Scheduler, text encoder, tokenizer, codec and transformer as published, but small."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    _, tokenizer = t5_text()
    torch.manual_seed(5)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    text_encoder = UMT5EncoderModel(UMT5Config(vocab_size=len(tokenizer), **sizes))
    spread = {"latents_mean": [0.1] * channels, "latents_std": [1.5] * channels}
    folded = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16}
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=channels,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        **spread,
        **(folded if channels == 6 else {}),
    )
    scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    shape = {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 16, "freq_dim": 16, "ffn_dim": 16}
    shape |= {"num_layers": 2, "rope_max_seq_len": 32, "in_channels": channels, "out_channels": channels} | transformer
    found = {"text_encoder": text_encoder, "tokenizer": tokenizer, "vae": vae, "scheduler": scheduler}
    return {**found, "transformer": WanTransformer3DModel(**shape)}, shape


def clip_vision():
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, image_size=8, patch_size=4, projection_dim=8)
    processor = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    return {"image_encoder": CLIPVisionModel(config), "image_processor": processor}


def wan21(folder: Path) -> None:
    from diffusers import WanPipeline

    WanPipeline(**parts()[0]).save_pretrained(folder)


def wan21_image(folder: Path) -> None:
    from diffusers import WanImageToVideoPipeline

    found, _ = parts(**BESIDE, image_dim=8, added_kv_proj_dim=24)
    WanImageToVideoPipeline(**found, **clip_vision()).save_pretrained(folder)


def wan21_first_last(folder: Path) -> None:
    from diffusers import WanImageToVideoPipeline

    found, _ = parts(**BESIDE, image_dim=8, added_kv_proj_dim=24, pos_embed_seq_len=10)
    WanImageToVideoPipeline(**found, **clip_vision()).save_pretrained(folder)


def wan22(folder: Path) -> None:
    from diffusers import WanPipeline, WanTransformer3DModel

    found, shape = parts()
    WanPipeline(**found, transformer_2=WanTransformer3DModel(**shape), boundary_ratio=0.875).save_pretrained(folder)


def wan22_image(folder: Path) -> None:
    from diffusers import WanImageToVideoPipeline, WanTransformer3DModel

    found, shape = parts(**BESIDE)
    second = WanTransformer3DModel(**shape)
    WanImageToVideoPipeline(**found, transformer_2=second, boundary_ratio=0.9).save_pretrained(folder)


def wan22_small(folder: Path) -> None:
    from diffusers import WanPipeline

    WanPipeline(**parts(channels=6)[0], expand_timesteps=True).save_pretrained(folder)


def plain(kind: str, folder: Path, generator: torch.Generator, adapter: Path | None = None, **call) -> torch.Tensor:
    import diffusers

    pipe = aligned(getattr(diffusers, kind).from_pretrained(folder))
    if adapter:
        pipe.load_lora_weights(adapter)
        if getattr(pipe, "transformer_2", None):  # diffusers has no word for both in one file
            pipe.transformer_2.load_lora_adapter(adapter / FILE, prefix="transformer_2")
    return pipe(prompt="a red circle", generator=generator, output_type="pt", **{**CALL, **call}).frames[0]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> tuple[Path, Path]:
    folder, levels = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("first.png", "last.png"):
        Image.fromarray(levels.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / name)
    return folder / "first.png", folder / "last.png"


def fitted(path: Path, size: int) -> Image.Image:
    return Image.fromarray(video.sample(path, 1, height=size, width=size).frames[0])


@pytest.mark.parametrize(("make", "options"), [(wan21, {}), (wan22, {"guidance_scale_2": 2.0}), (wan22_small, {})])
def test_text_to_video_equals_diffusers(made, make, options):
    folder, call = made(make), LARGER if make is wan22_small else CALL
    settings = Settings(**call, negative_prompt="", seed=5, options=options)
    equals_diffusers(folder, lambda generator: plain("WanPipeline", folder, generator, **call, **options), settings)


@pytest.mark.parametrize(
    ("make", "last"),
    [(wan21_image, False), (wan21_first_last, True), (wan22_image, False), (wan22_image, True), (wan22_small, False)],
)
def test_image_to_video_equals_diffusers(made, pictures, make, last):
    folder, call = made(make), LARGER if make is wan22_small else CALL
    images = dict(zip(("image", "last_image") if last else ("image",), pictures, strict=False))
    seen = {name: fitted(path, call["height"]) for name, path in images.items()}
    settings = Settings(**call, **images, negative_prompt="", seed=5)
    first = equals_diffusers(
        folder, lambda generator: plain("WanImageToVideoPipeline", folder, generator, **call, **seen), settings
    )
    other = Settings(**call, **{**images, "image": pictures[1]}, negative_prompt="", seed=5)
    (second,) = generate(*opened(folder), ["a red circle"], other)
    assert not np.array_equal(first.frames, second.frames)


def test_video_to_video_equals_diffusers(made, few_clips):
    folder, clip = made(wan21), next((few_clips / "videos").iterdir())

    def bare(generator: torch.Generator) -> torch.Tensor:
        import diffusers

        frames = [Image.fromarray(f) for f in video.sample(clip, 5, fps=16.0, height=16, width=16).frames]
        pipe = aligned(diffusers.WanVideoToVideoPipeline.from_pretrained(folder))
        call = {name: value for name, value in CALL.items() if name != "num_frames"}
        return pipe(frames, "a red circle", strength=0.7, generator=generator, output_type="pt", **call).frames[0]

    settings = Settings(**CALL, negative_prompt="", video=clip, strength=0.7, seed=5)
    equals_diffusers(folder, bare, settings)


def test_the_model_of_text_and_image_starts_from_a_video_too(made, few_clips):
    """Plain diffusers takes its codec for one of eight pixels a latent and fails."""
    clip = next((few_clips / "videos").iterdir())
    (result,) = generate(*opened(made(wan22_small)), ["a"], Settings(**LARGER, video=clip, strength=0.7))
    assert result.frames.shape == (5, 32, 32, 3)


@pytest.mark.parametrize("make", [wan21, wan22, wan22_small])
def test_the_oracle_lands_on_x_0(made, make):
    def run(pipe):
        Wan().use_sampler(pipe, "flow")
        if make is wan22:
            pipe.transformer_2 = pipe.transformer
        call = {**LARGER, "num_inference_steps": 7, "guidance_scale": 1.0}
        return pipe("a", **call, output_type="latent").frames

    lands_on_x_0(made(make), "transformer", run, (1, 6, 2, 2, 2) if make is wan22_small else (1, 4, 2, 4, 4))


@pytest.mark.parametrize("make", [wan21, wan21_image, wan21_first_last, wan22, wan22_image, wan22_small])
def test_training_asks_as_the_pipeline_does(made, pictures, make):
    size = 32 if make is wan22_small else 16
    first, last = (fitted(path, size) for path in pictures)
    frames = torch.rand(1, 3, 5, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for place, picture in ((0, first), (-1, last)):
        frames[0, :, place] = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1

    def run(pipe):
        from diffusers import WanImageToVideoPipeline

        call = {**CALL, "height": size, "width": size, "guidance_scale": 1.0}
        given = {} if make in (wan21, wan22) else {"image": first}
        given |= {"last_image": last} if make is wan21_first_last else {}
        runner = WanImageToVideoPipeline.from_pipe(pipe, dtype=None) if given else pipe
        runner(prompt="a red circle", **given, **call)

    asks_as_diffusers(made(make), run, frames)


def test_each_row_is_answered_by_the_transformer_of_its_level(made):
    family, pipe = opened(made(wan22))
    both, generator = family.denoisers(pipe), torch.Generator().manual_seed(0)
    x_t, t = torch.randn(3, 4, 2, 4, 4, generator=generator), torch.tensor([900.0, 100.0, 875.0])
    text = family.encode_text(pipe, {}, ["a", "red", "circle"])
    found = family.predict(pipe, both, x_t, t, text)
    for row, name in enumerate(("transformer", "transformer_2", "transformer")):
        own = {key: value[row : row + 1] for key, value in text.items()}
        alone = both[name](x_t[row : row + 1], t[row : row + 1], own["encoder_hidden_states"], return_dict=False)[0]
        torch.testing.assert_close(found[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_no_loss_is_taken_where_the_first_frame_is_given(made):
    family, pipe = opened(made(wan22_small))
    x_0, noise = torch.randn(2, 2, 6, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    told = {"first": x_0[:, :, :1], "given": torch.tensor([True, False])}
    text = family.encode_text(pipe, {}, ["a", "a"])
    flow = family.predict(pipe, family.denoisers(pipe), 0.6 * x_0 + 0.4 * noise, torch.full((2,), 400.0), text | told)
    error = (flow - (noise - x_0)).abs().amax((1, 3, 4))  # [B, t]
    assert error[0, 0] < 1e-5
    assert error[0, 1] > 0.1
    assert error[1].min() > 0.1


@pytest.mark.parametrize("make", [wan21_image, wan21_first_last, wan22_image, wan22_small])
def test_what_is_learned_depends_on_the_first_frame(made, make):
    family, pipe = opened(made(make))
    frames = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x_0, text = family.encode_video(pipe, frames).mean, family.encode_text(pipe, {}, ["a"])
    answers = []
    for video_ in (frames, frames.flip(3)):
        own = family.encode_video(pipe, video_).mean
        told = family.conditions(pipe, {"video": video_}, own, [torch.Generator().manual_seed(0)])
        answers.append(family.predict(pipe, family.denoisers(pipe), x_0, torch.tensor([500.0]), text | told)[:, :, 1:])
    assert (answers[0] - answers[1]).abs().max() > 1e-4


@pytest.mark.parametrize("make", [wan21_image, wan21_first_last, wan22_image])
def test_what_is_prepared_tells_the_same(made, make):
    family, pipe = opened(made(make))
    frames = torch.rand(2, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x_0 = family.encode_video(pipe, frames).mean
    encoder = family.open(made(make), CPU, torch.float32, opening=Opening(without=family.denoiser_names))
    rows = [family.encode_image(encoder, one[None]) for one in frames]
    stored = {f"image_{name}": torch.stack([row[name] for row in rows]) for name in rows[0]}
    ahead, now = family.conditions(pipe, stored, x_0, []), family.conditions(pipe, {"video": frames}, x_0, [])
    assert ahead.keys() == now.keys()
    assert all(torch.equal(ahead[name], now[name]) for name in now)


@pytest.mark.parametrize("make", [wan22, wan21_image, wan22_small])
def test_full_training(made, few_clips, tmp_path, pictures, make):
    size = "32" if make is wan22_small else "16"
    call = LARGER if make is wan22_small else CALL
    settings = Settings(**call, image=pictures[0]) if make is wan21_image else Settings(**call)
    # six rows a step: both transformers have some of them
    flags = ("--num_frames", "5", "--frame_size", size, "--batch_size", "6", "--sample_steps", "0")
    full_training_works(made(make), few_clips, tmp_path / "run", settings, *flags)


@pytest.mark.parametrize("make", [wan21, wan22])
def test_lora_training(made, few_clips, tmp_path, make):
    folder = made(make)

    def bare(adapter: Path, generator: torch.Generator) -> torch.Tensor:
        return plain("WanPipeline", folder, generator, adapter)

    final = lora_training_works(folder, few_clips, tmp_path / "run", SMALL, bare, *FLAGS, "--batch_size", "6")
    exported = export(final, "comfyui", tmp_path / "comfyui")
    assert [result.path.stem for result in exported] == (
        ["comfyui_transformer", "comfyui_transformer_2"] if make is wan22 else ["comfyui"]
    )
    adapters = [deltas(family.denoisers(pipe)) for family, pipe in (
        opened(final), opened(folder, lora=[result.path for result in exported])
    )]  # fmt: skip
    assert adapters[0].keys() == adapters[1].keys()
    assert all(torch.allclose(adapters[1][name], delta, rtol=1e-3, atol=1e-4) for name, delta in adapters[0].items())


def test_lora_training_from_first_frames_with_checkpointing(made, few_clips, tmp_path, pictures):
    folder, settings = made(wan22_image), Settings(**CALL, image=pictures[0], negative_prompt="", seed=5)
    flags = (*FLAGS, "--batch_size", "6", "--gradient_checkpointing")
    lora_training_works(folder, few_clips, tmp_path / "run", settings, None, *flags)


def test_training_in_bf16(made, few_clips, tmp_path):
    final = trained(made(wan22_small), few_clips, tmp_path, "--num_frames", "5", "--frame_size", "32", "--lora",
                    "--mixed_precision", "bf16")  # fmt: skip
    assert (final / "pytorch_lora_weights.safetensors").is_file()


def test_the_published_defaults(made):
    for make, frames, size, fps, steps, guidance in (
        (wan21, 81, (480, 832), 16, 50, 5.0),
        (wan22, 81, (720, 1280), 16, 40, 4.0),
        (wan22_image, 81, (480, 832), 16, 40, 3.5),
        (wan22_small, 121, (704, 1280), 24, 50, 5.0),
    ):
        family, pipe = opened(made(make))
        own = family.defaults(pipe)
        assert (own.num_frames, (own.height, own.width), own.fps) == (frames, size, fps)
        assert (own.num_inference_steps, own.guidance_scale) == (steps, guidance)
        assert family.rules(pipe).allows((own.num_frames, own.height, own.width))
        assert family.schedule(pipe).shift == 3
        for sampler in ("flow", "dpm++", "dpm++sde", "unipc"):
            family.use_sampler(pipe, sampler)
            assert family.schedule(pipe).shift == 3


def test_what_it_cannot_do_is_said(made, pictures):
    def asked(make, **settings):
        return next(generate(*opened(made(make)), ["a"], Settings(**CALL, **settings)))

    first, last = pictures
    with pytest.raises(UsageError, match="does not do text-to-video, only image-to-video"):
        asked(wan21_image)
    with pytest.raises(UsageError, match="takes no last frame"):
        asked(wan21_image, image=first, last_image=last)
    with pytest.raises(UsageError, match="give --last_image too"):
        asked(wan21_first_last, image=first)
    with pytest.raises(UsageError, match="does not do video-to-video, only text-to-video"):
        asked(wan22, video=first)
    with pytest.raises(UsageError, match="leave out --guidance_scale_2"):
        asked(wan21, options={"guidance_scale_2": 1.0})
    with pytest.raises(UsageError, match="num_frames 6 is not 4k"):
        next(generate(*opened(made(wan21)), ["a"], Settings(**{**CALL, "num_frames": 6})))
    family, pipe = opened(made(wan21_image))
    with pytest.raises(UsageError, match="--save_image_latents, or leave out --load_tensors"):
        family.conditions(pipe, {"mean": torch.zeros(1)}, torch.zeros(1, 4, 2, 2, 2), [torch.Generator()])
    with pytest.raises(UsageError, match="height 24"):
        family.rules(pipe).check(Bucket(5, 24, 16))
