"""Our autoencoder: what it sees in time, where it starts, and how it lies on the disk."""

import pytest
import torch

from text2video.errors import ModelError, UsageError
from text2video.models import codecs
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


def test_fitted_it_is_the_principal_components_of_patches():
    torch.manual_seed(0)
    videos = torch.randn(4, 2, 3, 9, 32, 32).cumsum(3).cumsum(4).cumsum(5) / 1000
    vae = VideoVAE(**SMALL)
    vae.fit_linear(videos)
    latents = torch.cat([vae.encode(video).latent_dist.mean for video in videos]).detach()
    for part in (latents[:, :, :1], latents[:, :, 1:]):
        rows = part.transpose(0, 1).flatten(1)
        torch.testing.assert_close(rows.mean(1), torch.zeros(6), atol=1e-3, rtol=0)
        torch.testing.assert_close(rows @ rows.T / rows.shape[1], torch.eye(6), atol=1e-3, rtol=0)
    with torch.no_grad():
        again = torch.stack([vae(video).sample for video in videos])
    for part, patch, sides in ((slice(0, 1), (1, 8, 8), 64 * 3), (slice(1, None), (4, 8, 8), 256 * 3)):
        rows = videos[:, :, :, part].unflatten(3, (-1, patch[0])).unflatten(5, (-1, 8)).unflatten(7, (-1, 8))
        rows = rows.permute(0, 1, 3, 5, 7, 2, 4, 6, 8).reshape(-1, sides)
        lost = torch.linalg.svdvals(rows - rows.mean(0))[6:].square().sum()
        torch.testing.assert_close((again - videos)[:, :, :, part].square().sum(), lost, rtol=1e-3, atol=0)


def test_what_it_cannot_take_is_said_in_words():
    with pytest.raises(UsageError, match=r"num_frames 16 is not 4k\+1 \(nearest: 13 or 17\)"):
        small().encode(clip(16, 16, 16))
    with pytest.raises(UsageError, match=r"width 20 is no multiple of 8"):
        small()(clip(5, 16, 20))
    for changes, said in (
        ({"temporal_compression_ratio": 3}, "temporal_compression_ratio is 3. Give a power of two"),
        ({"decoder_layers": (1,)}, "has 2 levels, encoder_layers 2 and decoder_layers 1"),
        ({"spatial_compression_ratio": 1}, "Give at most 1"),
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
