"""Autoencoders of ours and of diffusers: shapes, normalisation both ways, and words for what does not fit."""

import json

import pytest
import torch

from text2video.errors import ModelError, UsageError
from text2video.models.codecs import Geometry, Latents, decode, encode, open_codec

KINDS = {
    "AutoencoderKL": (1, 2, 2),
    "AutoencoderKLTemporalDecoder": (1, 2, 2),
    "AutoencoderKLWan": (4, 8, 8),
    "AutoencoderKLCogVideoX": (4, 8, 8),
    "AutoencoderKLLTXVideo": (4, 8, 8),
    "VideoVAE": (4, 8, 8),
}


def video(frames: int, *size: int) -> torch.Tensor:
    return torch.rand(2, 3, frames, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_follow_from_the_configuration_alone(codecs, kind):
    geometry = Geometry.read(codecs(kind))
    assert (geometry.strides, geometry.channels) == (KINDS[kind], 4)
    frames = geometry.frame_step + 1 if geometry.first_alone else 4
    latents = encode(open_codec(codecs(kind)), video(frames, 16, 32))
    assert latents.mean.shape == latents.logvar.shape == (2, 4, *geometry.latent_shape((frames, 16, 32)))
    assert decode(open_codec(codecs(kind)), latents.mean).shape == (2, 3, frames, 16, 32)


@pytest.mark.parametrize("kind", ["AutoencoderKLWan", "AutoencoderKLLTXVideo", "AutoencoderKL"])
def test_normalised_latents_are_what_the_kind_s_own_pipeline_denoises(codecs, kind):
    vae = open_codec(codecs(kind))
    clip = video(5, 16, 16)[:1]
    latents = encode(vae, clip)
    if kind == "AutoencoderKL":  # StableDiffusion3Pipeline: (z - shift) * scale
        own = vae.encode(clip[0].transpose(0, 1)).latent_dist
        expected = ((own.mean - 0.1) * 0.5).transpose(0, 1)[None]
        spread = (own.std * 0.5).transpose(0, 1)[None]
        back = vae.decode(own.mean).sample.transpose(0, 1)[None]
    elif kind == "AutoencoderKLWan":  # WanImageToVideoPipeline: (z - mean) * (1 / std)
        own = vae.encode(clip).latent_dist
        mean, std = (torch.tensor(vae.config[name]).view(1, 4, 1, 1, 1) for name in ("latents_mean", "latents_std"))
        expected, spread, back = (own.mean - mean) / std, own.std / std, vae.decode(own.mean).sample
    else:
        from diffusers import LTXImageToVideoPipeline

        vae.latents_mean += torch.tensor([0.1, 0.2, 0.3, 0.4])
        vae.latents_std *= 2
        own = vae.encode(clip).latent_dist
        latents = encode(vae, clip)
        expected = LTXImageToVideoPipeline._normalize_latents(own.mean, vae.latents_mean, vae.latents_std, 1.0)
        spread, back = own.std / 2, vae.decode(own.mean).sample
    torch.testing.assert_close(latents.mean, expected)
    torch.testing.assert_close((latents.logvar / 2).exp(), spread)
    torch.testing.assert_close(decode(vae, latents.mean), back, atol=1e-5, rtol=1e-4)


def test_a_video_s_latents_do_not_depend_on_its_neighbours(codecs):
    vae, clips = open_codec(codecs()), video(4, 16, 16)
    assert torch.equal(encode(vae, clips).mean[1:], encode(vae, clips[1:]).mean)


def test_latents_are_sampled_from_their_distribution():
    latents = Latents(torch.full((1, 1, 1, 100, 100), 3.0), torch.full((1, 1, 1, 100, 100), 4.0).log())
    drawn = latents.sample(torch.randn(1, 1, 1, 100, 100, generator=torch.Generator().manual_seed(0)))
    assert abs(drawn.mean() - 3) < 0.1
    assert abs(drawn.std() - 2) < 0.1
    assert Latents(drawn).sample(torch.ones(())) is drawn


@pytest.mark.parametrize(
    ("kind", "shape", "said"),
    [
        ("AutoencoderKLWan", (16, 32, 32), r"num_frames 16 is not 4k\+1 \(nearest: 13 or 17\)"),
        ("AutoencoderKLWan", (17, 20, 32), r"height 20 is no multiple of 8 \(nearest: 16 or 24\)"),
        ("AutoencoderKLCogVideoX", (13, 32, 32), r"num_frames 13 is not 8k\+1 \(nearest: 9 or 17\)"),
        ("AutoencoderKL", (3, 2, 1), r"width 1 is no multiple of 2 \(nearest: 2\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named_with_the_nearest(codecs, kind, shape, said):
    with pytest.raises(UsageError, match=said):
        Geometry.read(codecs(kind)).latent_shape(shape)


def test_a_folder_that_is_no_codec_is_refused(codecs, tmp_path):
    with pytest.raises(ModelError, match="holds no codec"):
        open_codec(tmp_path / "nothing")
    config = json.loads((codecs() / "config.json").read_text())
    for change, said in (
        ({"_class_name": "UNet3D"}, "is a UNet3D. Known are VideoVAE, AutoencoderKL,"),
        ({"in_channels": 4}, "takes 4 channels, and a video has 3"),
        ({}, "cannot be loaded"),  # no weights
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match=said):
            open_codec(tmp_path)
