"""Models of images as models of videos: the same on a single frame, every weight accounted for, what does not fit."""

from collections.abc import Sequence

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from text2video import LatentUNet3D, UNet3D
from text2video.errors import ModelError, UsageError
from text2video.models.inflation import along_time, check_apart, inflate
from text2video.models.stable_diffusion import inflate_stable_diffusion

V1 = {  # as Stable Diffusion 1: so many heads at every level, projections that are 1 x 1 convolutions
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "sample_size": 8,
}
V2 = {**V1, "attention_head_dim": (2, 4, 4), "use_linear_projection": True, "upcast_attention": True}
IMAGE = {
    "cross_attention_dim": 12,
    "model_channels": 16,
    "channel_mult": (1, 1.5),
    "num_res_blocks": 1,
    "attention": ("none", "space"),
    "downsample_time": (False,),
    "patch_size": (1, 2, 2),
    "conv": "2d",
    "head_dim": 8,
}


def drawn(model: nn.Module) -> nn.Module:
    """The model with other values where it begins at zero or one, as training would give it."""
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.ndim < 2 or not parameter.any():
            nn.init.normal_(parameter, parameter.mean().item(), std=0.1)
    return model.eval()


def stable_diffusion(**settings) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return drawn(UNet2DConditionModel(**settings))


def images(**changes) -> UNet3D:
    torch.manual_seed(0)
    return drawn(UNet3D(**{**IMAGE, **changes}))


def inputs(channels: int, shape: Sequence[int], batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    sample = torch.randn(batch, channels, *shape, generator=draw)
    return sample, torch.linspace(3.0, 901.0, batch).round(), torch.randn(batch, 5, 12, generator=draw)


@torch.no_grad()
@pytest.mark.parametrize("settings", [V1, V2], ids=["v1", "v2"])
def test_stable_diffusion_is_the_same_on_single_frames_and_on_each_frame_of_a_video(settings):
    image = stable_diffusion(**settings)
    video = inflate_stable_diffusion(image.config, image.state_dict())
    assert video.config["attention"] == ["factorised", "factorised", "none"]
    assert video.config["head_dim"] == [8, 16, 16] if settings is V1 else [16, 16, 16]
    sample, timestep, text = inputs(4, (3, 8, 12))
    frames = sample.transpose(1, 2).flatten(0, 1)  # [B*T, 4, H, W]
    theirs = image(frames, timestep.repeat_interleave(3), text.repeat_interleave(3, 0)).sample
    assert theirs.abs().max() > 0.1
    single = video(frames[:, :, None], timestep.repeat_interleave(3), text.repeat_interleave(3, 0)).sample[:, :, 0]
    torch.testing.assert_close(single, theirs, atol=1e-5, rtol=1e-5)
    ours = video(sample, timestep, text).sample.transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"conv": "factorised"},
        {"conv": "factorised", "attention": ("time", "factorised")},
        {"attention": ("full", "factorised")},
        {"attention": ("causal", "causal")},
        {"conv": "factorised", "attention": ("none", "causal")},
    ],
    ids=str,
)
def test_a_pixel_model_is_the_same_on_single_frames(changes):
    image = images()
    video = inflate(image, **changes)
    sample, timestep, text = inputs(3, (1, 8, 12))
    theirs = image(sample, timestep, text).sample
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(video(sample, timestep, text).sample, theirs, atol=1e-5, rtol=1e-5)
    repeated = video(sample.expand(-1, -1, 4, -1, -1), timestep, text).sample
    torch.testing.assert_close(repeated, theirs.expand_as(repeated), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_frames_of_an_image_model_know_nothing_of_each_other():
    image = images()
    sample, timestep, text = inputs(3, (3, 8, 8))
    whole = image(sample, timestep, text).sample
    for frame in range(3):
        alone = image(sample[:, :, frame : frame + 1], timestep, text).sample
        torch.testing.assert_close(alone, whole[:, :, frame : frame + 1], atol=1e-5, rtol=1e-5)
    with pytest.raises(ModelError, match=r"conv is 2d, so nothing looks along time, and attention is none time"):
        images(attention=("none", "time"))


def test_what_is_new_learns_and_what_it_learns_goes_along_time():
    image = images()
    video = inflate(image, "factorised").train()
    new = [name for name, _ in video.named_parameters() if along_time(video, name)]
    assert {name.split(".")[0] for name in new} == {"enter", "place_embedding", "down", "middle", "up"}
    for name, parameter in video.named_parameters():
        parameter.requires_grad_(name in new)
    sample, timestep, text = inputs(3, (4, 8, 8))
    optimiser = torch.optim.SGD([p for p in video.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        optimiser.zero_grad()
        (video(sample, timestep, text).sample - sample.roll(1, 2)).square().mean().backward()
        optimiser.step()
    still = [name for name, p in video.named_parameters() if name in new and (p.grad is None or not p.grad.any())]
    assert not still
    with torch.no_grad():
        changed = sample.clone()
        changed[:, :, 3] += 1
        before, after = (video(each, timestep, text).sample[:, :, 2] for each in (sample, changed))
        assert not torch.allclose(before, after, atol=1e-4)


def test_weights_that_are_missing_left_over_or_of_another_shape_are_named():
    image = stable_diffusion(**V1)
    weights = dict(image.state_dict())
    del (
        weights["mid_block.resnets.0.conv1.weight"],
        weights["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight"],
    )
    weights["add_embedding.linear_1.weight"] = torch.zeros(2)
    weights["conv_out.weight"] = weights["conv_out.weight"][:3]
    weights["conv_norm_out.bias"] = torch.tensor(1.0)
    with pytest.raises(ModelError) as said:
        inflate_stable_diffusion(image.config, weights, "my/unet")
    for part in (
        r"The weights of my/unet do not make a LatentUNet3D",
        "lacks down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight, mid_block.resnets.0.conv1.weight",
        "has beside what is known add_embedding.linear_1.weight",
        "conv_out.weight [3, 32, 3, 3], where leave.weight is [4, 32, 1, 3, 3]",
        "has in another shape conv_norm_out.bias [], where norm.bias is [32]",
    ):
        assert part in str(said.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"addition_embed_type": "text"}, "addition_embed_type text"),
        ({"transformer_layers_per_block": [1, 2]}, r"transformer_layers_per_block \[1, 2\]"),
        ({"down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"]}, "down_block_types"),
        ({"something_new": 3}, "something_new 3"),
        ({"layers_per_block": [1, 2, 3]}, r"layers_per_block \[1, 2, 3\]"),
        ({"attention_head_dim": [2, 4]}, r"attention_head_dim \[2, 4\]"),
        ({"block_out_channels": [20, 40, 40]}, r"block_out_channels \[20, 40, 40\]"),
    ],
)
def test_an_image_model_that_computes_otherwise_is_refused(change, said):
    with pytest.raises(ModelError, match=f"it has {said}"):
        inflate_stable_diffusion({**V1, **change}, {})


def test_pixel_models_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="attention has 1 levels, time, and the image model 2, none space"):
        inflate(images(), attention=["time"])
    with pytest.raises(ModelError, match=r"has beside what is known .*attentions\.space"):
        inflate(images(), attention=["time", "time"])
    with pytest.raises(ModelError, match="no model of single frames"):
        inflate(UNet3D(**{**IMAGE, "conv": "3d"}))
    with pytest.raises(UsageError, match="convolutions are 3d"):
        check_apart(inflate(images()))
    check_apart(LatentUNet3D(model_channels=32))
