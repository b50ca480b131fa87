"""Our autoencoder: what it sees in time, where it starts, and how it lies on the disk."""

from typing import Any

import pytest
import torch

from text2video.errors import ModelError, UsageError
from text2video.models import codecs
from text2video.models.causal import TimeCache
from text2video.models.video_vae import VideoVAE

SMALL = {"latent_channels": 6, "block_out_channels": (16, 24), "encoder_layers": (1, 1), "decoder_layers": (1, 2)}


def small(**changes) -> VideoVAE:
    """A random one, in which every layer does something."""
    torch.manual_seed(0)
    vae = VideoVAE(**SMALL | changes)
    for parameter in vae.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return vae.eval()


def clip(*shape: int) -> torch.Tensor:
    return torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_no_latent_and_no_frame_sees_what_comes_later():
    vae, video = small(), clip(13, 16, 24)
    changed = torch.cat([video[:, :, :5], clip(8, 16, 24)], dim=2)
    mean, other = (vae.encode(x).latent_dist.mean for x in (video, changed))
    assert mean.shape == (1, 6, 4, 2, 3)
    assert torch.equal(mean[:, :, :2], other[:, :, :2])
    assert not torch.equal(mean[:, :, 2:], other[:, :, 2:])
    mixed = torch.cat([mean[:, :, :2], other[:, :, 2:] + 1], dim=2)
    frames, others = (vae.decode(x).sample for x in (mean, mixed))
    assert frames.shape == video.shape
    assert torch.equal(frames[:, :, :5], others[:, :, :5])
    assert not torch.equal(frames[:, :, 5:], others[:, :, 5:])


@torch.no_grad()
@pytest.mark.parametrize(("time", "space"), [(1, 4), (2, 8), (4, 8), (8, 16)])
def test_the_first_frame_alone_is_an_image_at_any_ratio(time, space):
    vae = small(temporal_compression_ratio=time, spatial_compression_ratio=space)
    video = clip(1 + 2 * time, 2 * space, space)
    mean = vae.encode(video).latent_dist.mean
    assert mean.shape == (1, 6, 3, 2, 1)
    torch.testing.assert_close(vae.encode(video[:, :, :1]).latent_dist.mean, mean[:, :, :1])
    torch.testing.assert_close(vae.decode(mean[:, :, :1]).sample, vae.decode(mean).sample[:, :, :1])


def cut(x: torch.Tensor, *lengths: int) -> list[torch.Tensor]:
    """Chunks of these lengths, as far as it reaches, and what is left."""
    return list(x.tensor_split(torch.tensor(lengths, dtype=torch.long).cumsum(0), dim=2))


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(), (1,), (3, 9, 1), (1,) * 20, (13, 0, 4)])
@pytest.mark.parametrize("at_a_time", [1, 3])
def test_in_chunks_of_any_length_a_video_gives_what_it_gives_whole(lengths, at_a_time):
    vae, video = small(), clip(21, 16, 16)
    vae.latents_at_a_time = at_a_time
    whole = vae(video)
    streamed = list(vae.encode_stream(cut(video, *lengths)))
    assert all(latents.mean.shape[2] <= at_a_time for latents in streamed)
    mean = torch.cat([latents.mean for latents in streamed], dim=2)
    torch.testing.assert_close(mean, whole.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.encode(video).latent_dist.mean, whole.mean, atol=1e-5, rtol=0)
    logvar = torch.cat([latents.logvar for latents in streamed], dim=2)
    torch.testing.assert_close(logvar, whole.logvar, atol=1e-5, rtol=0)
    frames = torch.cat(list(vae.decode_stream(cut(mean, *lengths))), dim=2)
    torch.testing.assert_close(frames, whole.sample, atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.decode(mean).sample, whole.sample, atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_layers_hold_does_not_grow_with_the_length():
    vae = small()
    largest = {}

    def held(frames: int) -> dict[str, int]:
        largest.clear()
        video = clip(frames, 16, 16)
        vae.decode(vae.encode(video).latent_dist.mean)
        return dict(largest)

    for name, layer in vae.named_modules():
        layer.register_forward_hook(
            lambda _, inputs, out, name=name: largest.update(
                {name: max([largest.get(name, 0), *(x.numel() for x in (*inputs, out) if torch.is_tensor(x))])}
            )
        )
    assert held(33) == held(81)
    cache, kept = TimeCache(), set()
    for _ in range(4):
        vae._encode(clip(5 if not cache.started else 4, 16, 16), cache)
        kept.add(sum(frames.untyped_storage().nbytes() for frames in cache.frames.values()))
    assert len(kept) == 1


@torch.no_grad()
@pytest.mark.parametrize("tile", [8, 16, 200])
def test_tiles_give_what_the_whole_gives(tile):
    vae, video = small(), clip(5, 48, 64)
    mean = vae.encode(video).latent_dist.mean
    frames = vae.decode(mean).sample
    vae.enable_tiling(tile)
    torch.testing.assert_close(vae.encode(video).latent_dist.mean, mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.decode(mean).sample, frames, atol=1e-5, rtol=0)
    streamed = torch.cat([latents.mean for latents in vae.encode_stream(cut(video, 2))], dim=2)
    torch.testing.assert_close(streamed, mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(list(vae.decode_stream(cut(mean, 1))), dim=2), frames, atol=1e-5, rtol=0)
    vae.disable_tiling()
    assert torch.equal(vae.decode(mean).sample, frames)


@torch.no_grad()
def test_the_overlap_of_tiles_is_what_a_place_sees_and_no_more():
    vae = small(encoder_layers=(3, 1), decoder_layers=(1, 2))
    assert (vae.encoder.reach, vae.decoder.reach) == (3, 3)
    video = clip(5, 8, 13 * 8)
    for wave, made, reach, scale in (
        (video, lambda x: vae.encode(x).latent_dist.mean, vae.encoder.reach, 8),
        (vae.encode(video).latent_dist.mean, lambda x: vae.decode(x).sample, vae.decoder.reach, 1),
    ):
        changed = wave.clone()
        changed[..., 6 * scale : 7 * scale] += 1
        seen = (made(changed) != made(wave)).any(dim=0).any(dim=0).any(dim=0).any(dim=0).unflatten(0, (13, -1)).any(1)
        assert seen.nonzero().flatten().tolist() == list(range(6 - reach, 7 + reach))


@torch.no_grad()
def test_tiles_bound_what_a_layer_sees():
    vae = small()
    sizes = []
    for layer in (vae.encoder.enter, vae.decoder.enter):
        layer.register_forward_hook(lambda _, inputs, out: sizes.append(out[0, 0, 0].numel()))
    vae.enable_tiling(8)
    for side in (32, 64):
        vae.decode(vae.encode(clip(1, side, side)).latent_dist.mean)
    reach = vae.encoder.reach
    assert max(sizes) <= (2 * (1 + 2 * max(reach, vae.decoder.reach))) ** 2


def test_fitted_it_is_better_than_the_principal_components_of_patches():
    torch.manual_seed(0)
    videos = torch.randn(4, 2, 3, 9, 32, 32).cumsum(3).cumsum(4).cumsum(5) / 1000
    vae = VideoVAE(**SMALL)
    vae.fit_linear(videos)
    latents = torch.cat([vae.encode(video).latent_dist.mean for video in videos]).detach()
    for part in (latents[:, :, :1], latents[:, :, 1:]):
        rows = part.transpose(0, 1).flatten(1)
        torch.testing.assert_close(rows.mean(1), torch.zeros(6), atol=1e-3, rtol=0)
        torch.testing.assert_close(rows @ rows.T / rows.shape[1], torch.eye(6), atol=1e-3, rtol=0)
    still = vae.encode(videos[0, :, :, :1].repeat_interleave(5, 2)).latent_dist.mean
    assert torch.cosine_similarity(still[:, :, 0].flatten(), still[:, :, 1].flatten(), dim=0) > 0.7
    patches = videos.unflatten(4, (4, 8)).unflatten(6, (4, 8)).permute(0, 1, 4, 6, 2, 3, 5, 7).flatten(0, 3)
    with torch.no_grad():
        whole = torch.cat([vae(video).sample for video in videos]) - videos.flatten(0, 1)
        alone = vae(patches).sample - patches  # [128, 3, 9, 8, 8]
    for part in (slice(0, 1), slice(1, None)):
        rows = patches[:, :, part].unflatten(2, (-1, min(4, patches[:, :, part].shape[2]))).transpose(1, 2)
        rows = rows.flatten(0, 1).flatten(1)  # [patches, numbers of each]
        lost = torch.linalg.svdvals(rows - rows.mean(0))[6:].square().sum()
        torch.testing.assert_close(alone[:, :, part].square().sum(), lost, rtol=1e-3, atol=0)
        assert whole[:, :, part].square().sum() < 0.99 * lost


def test_what_it_cannot_take_is_said_in_words():
    with pytest.raises(UsageError, match=r"num_frames 16 is not 4k\+1 \(nearest: 13 or 17\)"):
        small().encode(clip(16, 16, 16))
    with pytest.raises(UsageError, match=r"width 20 is no multiple of 8"):
        small()(clip(5, 16, 20))
    streamed = small().encode_stream([clip(6, 16, 16), clip(2, 16, 16)])
    assert next(streamed).mean.shape[2] == 2
    with pytest.raises(UsageError, match=r"num_frames 8 is not 4k\+1 \(nearest: 5 or 9\)"):
        list(streamed)
    for changes, said in (
        ({"temporal_compression_ratio": 3}, "temporal_compression_ratio is 3. Give a power of two"),
        ({"decoder_layers": (1,)}, "has 2 levels, encoder_layers 2 and decoder_layers 1"),
        ({"spatial_compression_ratio": 1}, "Give at most 1"),
        ({"latent_channels": 200}, "latent_channels is 200, and a patch of the first frame has 192"),
    ):
        with pytest.raises(ModelError, match=said):
            small(**changes)


def test_it_is_a_codec(tmp_path):
    vae, video = small(), clip(5, 16, 24).expand(2, -1, -1, -1, -1)
    vae.register_to_config(latents_mean=[0.1 * i for i in range(6)], latents_std=[1.0 + i for i in range(6)])
    vae.save_pretrained(tmp_path)
    opened = codecs.open_codec(tmp_path)
    geometry = codecs.Geometry.read(tmp_path)
    assert (geometry.strides, geometry.channels, geometry.rules()) == ((4, 8, 8), 6, vae.rules)
    latents = codecs.encode(opened, video)
    assert latents.mean.shape == (2, 6, *geometry.latent_shape((5, 16, 24)))
    with torch.no_grad():
        own = vae.encode(video).latent_dist
        mean, std = (torch.tensor(vae.config[name]).view(6, 1, 1, 1) for name in ("latents_mean", "latents_std"))
        torch.testing.assert_close(latents.mean, (own.mean - mean) / std)
        torch.testing.assert_close((latents.logvar / 2).exp(), own.std / std)
        torch.testing.assert_close(codecs.decode(opened, latents.mean), vae(video).sample)


def test_training_sees_the_noise_and_checkpointing_changes_no_gradient():
    vae, video = small().train(), clip(9, 16, 16)
    noise = torch.randn(1, 6, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    out = vae(video, noise)
    assert out.mean.shape == out.logvar.shape == noise.shape
    torch.testing.assert_close(out.sample, vae.decode(out.mean + (out.logvar / 2).exp() * noise).sample)
    gradients = []
    for checkpointed in (False, True):
        (vae.enable_gradient_checkpointing if checkpointed else vae.disable_gradient_checkpointing)()
        vae.zero_grad()
        vae(video, noise).sample.square().mean().backward()
        gradients.append([p.grad.clone() for p in vae.parameters()])
    torch.testing.assert_close(*gradients)


@torch.no_grad()
@pytest.mark.slow
def test_compilation_changes_nothing():
    vae, video = small(), clip(9, 16, 16)
    compiled: Any = torch.compile(vae, backend="eager")
    torch.testing.assert_close(compiled(video).sample, vae(video).sample)


@torch.no_grad()
def test_half_precision_changes_little():
    vae, video = small(), clip(9, 16, 16)
    whole = vae(video)
    with torch.autocast("cpu", torch.bfloat16):
        cast = vae(video).sample.float()
    half = vae.bfloat16()(video.bfloat16()).sample
    assert half.dtype == torch.bfloat16
    for other in (cast, half.float()):
        assert (other - whole.sample).square().mean() < 1e-3 * whole.sample.var()
