"""A stream is what one causal model gives block after block, at the memory of a few, whatever its length."""

import gc

import pytest
import torch
from diffusers import PyramidAttentionBroadcastConfig

from text2video.diffusion.guidance import guided, sample
from text2video.diffusion.schedules import Schedule
from text2video.diffusion.seeds import generator
from text2video.errors import ModelError, UsageError
from text2video.models.text import TextEncoder
from text2video.models.transformer import VideoTransformer
from text2video.models.unet3d import UNet3D
from text2video.models.video_vae import VideoVAE
from text2video.pipelines import TextToVideoPipeline


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(model):
    """With weights under which every layer does something."""
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def pipeline(schedule: str = "flow", vae=None, channels: int = 3, clip=(6, 8, 8), **changes) -> TextToVideoPipeline:
    """A tiny random causal model, of blocks of two frames, made for clips of three blocks."""
    torch.manual_seed(0)
    text = TextEncoder.builtin(["a red circle moves left", "a blue square"], 32, 1, 300, 16)
    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12, "cross_attention_dim": 32}
    kind = {"time_attention": "causal", "causal_block": 2} | changes
    model = random(VideoTransformer(channels, channels, **sizes, **kind))
    scheduler = Schedule(schedule).sampler(None if schedule == "flow" else "ddim", "v", clip=vae is None)
    frames, height, width = clip
    pipe = TextToVideoPipeline(
        scheduler, text.model.eval(), text.tokenizer, transformer=model, vae=vae, prediction="v", num_inference_steps=3
    )
    pipe.register_to_config(num_frames=frames, height=height, width=width)
    return pipe


def small_vae() -> VideoVAE:
    torch.manual_seed(1)
    sizes = {"encoder_layers": (1, 1), "decoder_layers": (1, 1), "block_out_channels": (8, 8), "latent_channels": 4}
    numbers = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.0, 2.0, 0.5, 1.5]}
    return random(VideoVAE(spatial_compression_ratio=4, **sizes, **numbers))


def video(stream) -> torch.Tensor:
    """`[3, T, H, W]`."""
    return torch.cat(list(stream), 1)


@torch.no_grad()
def uncached(pipe, prompt: str, blocks: int, scale: float, interval, seed: int) -> torch.Tensor:
    """The same without a cache: each pass is one of the whole model over all blocks so far."""
    negative, ask = pipe.encode_prompts([prompt], "", scale, {})
    first = int(torch.randint(2**62, (), generator=seeded(seed)))
    done: list[torch.Tensor] = []
    for block in range(blocks):

        def predict(x_t, t, condition):
            past = [clean.expand(len(x_t), -1, -1, -1, -1) for clean in done]
            times = torch.zeros(len(x_t), 2 * len(past) + 2)
            times[:, -2:] = t[:, None]
            return pipe.transformer(torch.cat([*past, x_t], 2), times, **condition).sample[:, :, -2:]

        draws = generator(first, block)
        noise = torch.randn(1, 3, 2, 8, 8, generator=draws)
        asked = guided(predict, scale, negative, interval)
        done.append(sample(asked, pipe.scheduler, noise, ask, "v", 3, draws).clamp(-1, 1))
    return torch.cat(done, 2)[0]


@pytest.mark.parametrize("sampler", ["flow", "dpm++", "dpm++sde", "unipc"])
def test_it_equals_one_causal_pass_over_all_blocks(sampler):
    pipe = pipeline()
    pipe.use_sampler(sampler)
    # guidance in the first of three steps only: passes of two rows and of one in turn
    found = video(pipe.stream("a red circle", 8, seeded(3), guidance_scale=2.0, guidance_interval=(0.8, 1), window=8))
    wanted = uncached(pipe, "a red circle", 4, 2.0, (800, 1000), seed=3)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_ancestral_samplers_and_no_guidance():
    pipe = pipeline("cosine")
    for sampler in ("ddpm", "ddim", "euler"):
        pipe.use_sampler(sampler)
        found = video(pipe.stream("a red circle", 6, seeded(4), guidance_scale=1.0, window=6))
        torch.testing.assert_close(found, uncached(pipe, "a red circle", 3, 1.0, None, seed=4), atol=1e-4, rtol=0)


def test_a_longer_stream_begins_with_the_shorter_one():
    pipe = pipeline()
    long, short = (video(pipe.stream("a red circle", frames, seeded())) for frames in (13, 5))
    assert (long.shape, short.shape) == ((3, 13, 8, 8), (3, 5, 8, 8))
    assert torch.equal(long[:, :5], short)
    assert not torch.equal(long, video(pipe.stream("a red circle", 13, seeded(1))))


def test_the_past_matters_as_far_as_the_window_reaches():
    pipe = pipeline()

    def shown(frame: int) -> str:  # another text in the first block, so another first block
        return "a blue square" if frame == 0 else "a red circle"

    wide, narrow = ({"num_frames": 8, "guidance_scale": 4.0, "window": window} for window in (8, 2))
    for how in (wide, narrow):
        same, other = (video(pipe.stream(prompt, generator=seeded(), **how)) for prompt in ("a red circle", shown))
        assert all(not torch.equal(same[:, i : i + 2], other[:, i : i + 2]) for i in (0, 2))
    assert not torch.equal(
        video(pipe.stream("a red circle", generator=seeded(), **wide)),
        video(pipe.stream("a red circle", generator=seeded(), **narrow)),
    )


def test_latents_are_decoded_as_they_come():
    vae = small_vae()
    pipe = pipeline(vae=vae, channels=4, clip=(17, 16, 16))
    latents: list[torch.Tensor] = []
    decode = vae.decode_stream
    vae.decode_stream = lambda chunks: decode(latents.append(chunk) or chunk for chunk in chunks)
    parts = list(pipe.stream("a red circle", 30, seeded()))
    assert [chunk.shape[2] for chunk in latents] == [2, 2, 2, 2, 2]  # 37 frames, of which 30 are wanted
    assert sum(part.shape[1] for part in parts) == 30
    torch.testing.assert_close(
        torch.cat(parts, 1), vae.decode(torch.cat(latents, 2)).sample[0, :, :30].clamp(-1, 1), atol=1e-5, rtol=0
    )
    taken = pipe.stream("a red circle", 1000, seeded())
    latents.clear()
    assert next(taken).shape[1] <= 5
    assert len(latents) == 1


def test_an_image_codec_decodes_each_block(codecs):
    from text2video.models.codecs import open_codec

    pipe = pipeline(vae=open_codec(codecs()), channels=4, clip=(6, 16, 16))
    assert video(pipe.stream("a red circle", 7, seeded())).shape == (3, 7, 16, 16)
    with pytest.raises(ModelError, match=r"AutoencoderKLWan, decodes whole videos only"):
        pipeline(vae=open_codec(codecs("AutoencoderKLWan")), channels=4, clip=(9, 16, 16)).stream("a")


def test_what_cannot_be_streamed_is_said_at_once():
    pipe = pipeline()
    sizes = {"model_channels": 16, "channel_mult": (1, 1), "downsample_time": (False,), "attention": ("none", "causal")}
    for denoiser in ({"unet": UNet3D(**sizes)}, {"transformer": pipeline(time_attention="full").transformer}):
        other = TextToVideoPipeline(pipe.scheduler, pipe.text_encoder, pipe.tokenizer, **denoiser)
        with pytest.raises(UsageError, match=r"cannot be streamed.*--time_attention causal"):
            other.stream("a red circle")
    skipping = {"spatial_attention_block_skip_range": 2, "current_timestep_callback": lambda: 500}
    pipe.transformer.enable_cache(PyramidAttentionBroadcastConfig(**skipping))
    with pytest.raises(UsageError, match=r"disable_cache\(\) first"):
        pipe.stream("a red circle")
    pipe.transformer.disable_cache()
    with pytest.raises(UsageError, match=r"height 9"):
        pipe.stream("a red circle", height=9)
    with pytest.raises(UsageError, match=r"guidance_interval"):
        pipe.stream("a red circle", guidance_interval=(1.0, 0.5))


def held() -> int:
    """Numbers in all tensors that anything refers to."""
    gc.collect()
    return sum(thing.numel() for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))


def after(stream, frames: int) -> int:
    """What is held after so many of a stream's frames."""
    taken = 0
    while taken < frames:
        taken += next(stream).shape[1]
    return held()


@pytest.mark.parametrize("latent", [False, True])
def test_memory_does_not_grow_with_length(latent):
    pipe = pipeline(vae=small_vae(), channels=4, clip=(17, 8, 8)) if latent else pipeline()
    stream = pipe.stream("a red circle", 200, seeded(), num_inference_steps=1)
    assert after(stream, 40) == after(stream, 80)


@pytest.mark.slow
def test_a_minute_at_24_frames_a_second():
    pipe = pipeline()
    stream = pipe.stream("a red circle", 1440, seeded(), num_inference_steps=1)
    assert after(stream, 40) == after(stream, 360) == after(stream, 1000)
    assert sum(part.shape[1] for part in stream) == 40
