"""Attention over space and time by name: what is perturbed in a video shows who sees whom."""

from typing import Any

import pytest
import torch
from torch import nn

from text2video.errors import ModelError
from text2video.models import attention as attention_module
from text2video.models.causal import CausalConv3d
from text2video.models.denoiser import Denoiser
from text2video.models.latent_unet import LatentUNet3D
from text2video.models.spacetime import ATTENTION, SpacetimeAttention
from text2video.models.unet3d import UNet3D

SMALL = {"in_channels": 3, "out_channels": 3, "cross_attention_dim": 12, "model_channels": 16, "head_dim": 16}
CAUSAL = {
    "3d": (UNet3D, {"conv": "3d", "downsample_time": (False,)}),
    "factorised": (UNet3D, {"conv": "factorised", "downsample_time": (False,), "patch_size": (1, 2, 2)}),
    "latent": (LatentUNet3D, {}),
}


def started(module: Any) -> Any:
    """The module with other values where layers begin at zero, so that everything has an effect."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return module.eval()


def causal(name: str, attention=("none", "causal")) -> Denoiser:
    torch.manual_seed(0)
    kind, changes = CAUSAL[name]
    return started(kind(channel_mult=(1, 1.5), num_res_blocks=1, attention=attention, **SMALL, **changes))


def seen(kind: str, silent: str = "") -> torch.Tensor:
    """Which places (t, h, w) of a video the place (2, 1, 1) changes, in a layer without one of its parts."""
    torch.manual_seed(0)
    layer = started(SpacetimeAttention(kind, 16, 8))
    if silent:
        nn.init.zeros_(layer.get_submodule(f"{silent}.out").get_parameter("weight"))
    x = torch.randn(1, 5, 3, 3, 16)
    changed = x.clone()
    changed[:, 2, 1, 1] += torch.randn(16)
    with torch.no_grad():
        return (layer(x) != layer(changed)).any(-1)[0]


def test_each_name_sees_what_it_says():
    own, place, frame, onward = (torch.zeros(5, 3, 3, dtype=torch.bool) for _ in range(4))
    own[2, 1, 1] = place[:, 1, 1] = frame[2] = onward[2:] = True
    assert set(ATTENTION) == {"none", "space", "time", "factorised", "full", "causal"}
    assert torch.equal(seen("none"), own)
    assert torch.equal(seen("space"), frame)
    assert torch.equal(seen("time"), place)
    assert torch.equal(seen("factorised", silent="time"), frame)
    assert torch.equal(seen("factorised", silent="space"), place)
    assert seen("factorised").all()
    assert seen("full").all()
    assert torch.equal(seen("causal"), onward)
    assert torch.equal(seen("causal", silent="space"), place & onward)


@torch.no_grad()
@pytest.mark.parametrize("name", CAUSAL)
def test_in_a_causal_model_no_frame_knows_of_a_later_one(name):
    model = causal(name)
    sample, text = torch.randn(2, 3, 7, 8, 8), torch.randn(2, 5, 12)
    out = model(sample, 500.0, text).sample
    changed = sample.clone()
    changed[:, :, 4:] = torch.randn(2, 3, 3, 8, 8)
    other = model(changed, 500.0, text).sample
    assert torch.equal(other[:, :, :4], out[:, :, :4])
    assert (other[:, :, 4:] != out[:, :, 4:]).any((0, 1, 3, 4)).all()
    # nor how many there are
    torch.testing.assert_close(model(sample[:, :, :4], 500.0, text).sample, out[:, :, :4])
    # but each knows of those before it
    changed = sample.clone()
    changed[:, :, 0] += 1
    assert (model(changed, 500.0, text).sample != out).any((0, 1, 3, 4)).all()


@torch.no_grad()
@pytest.mark.parametrize("name", CAUSAL)
def test_models_that_are_not_causal_see_later_frames(name):
    model = causal(name, ("none", "factorised"))
    sample = torch.randn(1, 3, 7, 8, 8)
    changed = sample.clone()
    changed[:, :, 6] += 1
    assert (model(changed, 500.0).sample != model(sample, 500.0).sample).any((0, 1, 3, 4)).all()


def test_what_cannot_be_causal_is_refused():
    with pytest.raises(ModelError, match="'full' at another, which looks at later frames"):
        causal("3d", ("full", "causal"))
    with pytest.raises(ModelError, match="'time' at another"):
        causal("latent", ("causal", "time"))
    for changes in ({"patch_size": (2, 1, 1)}, {"downsample_time": (True,)}):
        with pytest.raises(ModelError, match="the first would see the last"):
            UNet3D(
                **SMALL,
                **{"channel_mult": (1, 2), "attention": ("none", "causal"), "downsample_time": (False,), **changes},
            )
    with pytest.raises(ModelError, match="attention has 'sideways'"):
        causal("latent", ("none", "sideways"))


@pytest.mark.parametrize("core", ["_explicit", "_fused"])
def test_both_ways_to_attend_are_causal(core, monkeypatch):
    monkeypatch.setattr(attention_module, "_fastest", lambda *_: getattr(attention_module, core))
    q, k, v = torch.randn(3, 2, 6, 2, 8).unbind()
    out = attention_module.attention(q, k, v, causal=True)
    for frame in range(6):
        alone = attention_module.attention(q[:, frame : frame + 1], k[:, : frame + 1], v[:, : frame + 1])
        torch.testing.assert_close(out[:, frame : frame + 1], alone)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_bfloat16_gradient_of_a_causal_convolution_over_few_frames(frames):
    torch.manual_seed(0)
    layer = CausalConv3d(16, 24, (3, 3, 3))
    x = torch.randn(2, 16, frames, 4, 4).to(memory_format=torch.channels_last_3d)
    weight = torch.randn(2, 24, frames, 4, 4)
    gradients = []
    for half in (False, True, True, True):
        torch.full((24, 16, 3, 3, 3), float("nan"))  # what stands in memory that is not written
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = layer(x)
        gradients.append(torch.autograd.grad((out.float() * weight).sum(), layer.weight)[0])
    for rounded in gradients[1:]:
        assert (rounded - gradients[0]).norm() < 0.02 * gradients[0].norm()
