"""Stable Diffusion's U-Net (Rombach et al. 2022, arXiv:2112.10752) as one of videos: diffusers' names and ours.

A `UNet2DConditionModel` of version 1 or 2 becomes a `LatentUNet3D`, which is built like it within a frame.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor

from ..errors import ModelError
from .inflation import along_time, carry
from .latent_unet import LatentUNet3D

# Part of a name here -> the same in diffusers, one after the other.
_PARTS = {
    r"^enter\.": "conv_in.",
    r"^leave\.": "conv_out.",
    r"^norm\.": "conv_norm_out.",
    r"^time_embedding\.first\.": "time_embedding.linear_1.",
    r"^time_embedding\.second\.": "time_embedding.linear_2.",
    r"^shrink\.(\d+)\.": r"down_blocks.\1.downsamplers.0.conv.",
    r"^grow\.(\d+)\.": r"up_blocks.\1.upsamplers.0.conv.",
    r"^(down|up)\.(\d+)\.(\d+)\.transformer\.": r"\1_blocks.\2.attentions.\3.",
    r"^(down|up)\.(\d+)\.(\d+)\.": r"\1_blocks.\2.resnets.\3.",
    r"^middle\.(\d+)\.transformer\.": r"mid_block.attentions.\1.",
    r"^middle\.(\d+)\.": r"mid_block.resnets.\1.",
    r"(resnets\.\d+)\.norm_in\.": r"\1.norm1.",
    r"(resnets\.\d+)\.conv_in\.": r"\1.conv1.",
    r"(resnets\.\d+)\.time_proj\.": r"\1.time_emb_proj.",
    r"(resnets\.\d+)\.norm_out\.": r"\1.norm2.",
    r"(resnets\.\d+)\.conv_out\.": r"\1.conv2.",
    r"(resnets\.\d+)\.skip\.": r"\1.conv_shortcut.",
    r"\.attentions\.space\.norm\.": ".transformer_blocks.0.norm1.",
    r"\.attentions\.space\.out\.": ".transformer_blocks.0.attn1.to_out.0.",
    r"\.attentions\.space\.": ".transformer_blocks.0.attn1.",
    r"\.text_attention\.norm\.": ".transformer_blocks.0.norm2.",
    r"\.text_attention\.out\.": ".transformer_blocks.0.attn2.to_out.0.",
    r"\.text_attention\.": ".transformer_blocks.0.attn2.",
    r"\.feed_forward\.norm\.": ".transformer_blocks.0.norm3.",
    r"\.feed_forward\.widen\.": ".transformer_blocks.0.ff.net.0.proj.",
    r"\.feed_forward\.narrow\.": ".transformer_blocks.0.ff.net.2.",
}
# Projections that lie in one weight here, in this order.
_TOGETHER = {"qkv": ("to_q", "to_k", "to_v"), "kv": ("to_k", "to_v"), "q": ("to_q",)}
# Block in diffusers -> attention of our level.
_DOWN = {"CrossAttnDownBlock2D": "factorised", "DownBlock2D": "none"}
_UP = {"CrossAttnUpBlock2D": "factorised", "UpBlock2D": "none"}
# What of its configuration is followed, or says nothing of what is computed; all else has to be as diffusers has it
# when it is not told otherwise.
_FOLLOWED = {
    *("in_channels", "out_channels", "block_out_channels", "down_block_types", "up_block_types", "layers_per_block"),
    *("cross_attention_dim", "attention_head_dim", "dropout", "use_linear_projection", "sample_size"),
    "upcast_attention",
}


def inflate_stable_diffusion(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], origin: str = "the image model"
) -> LatentUNet3D:
    """A model of videos from Stable Diffusion's U-Net; its new layers are drawn anew, from torch's generator.

    Args:
        config: of a `UNet2DConditionModel`, as in its config.json.
        weights: its state, by diffusers' names, all of it.
        origin: what the two are of, for an error.

    Raises:
        ModelError: it computes something that `LatentUNet3D` does not, or the weights are not those of its
            configuration; what does not fit is named.
    """
    video = LatentUNet3D(**arguments(config, origin)).eval()
    new = {name for name in video.state_dict() if along_time(video, name)}
    carry(video, weights, _sources, new, origin)
    return video


def arguments(config: Mapping[str, Any], origin: str = "the image model") -> dict[str, Any]:
    """What a `LatentUNet3D` is told to be a `UNet2DConditionModel` of this configuration within a frame.

    Raises:
        ModelError: there is no such model.
    """
    usual = {name: p.default for name, p in inspect.signature(UNet2DConditionModel.__init__).parameters.items()}
    given = {name: _plain(value) for name, value in config.items() if not name.startswith("_")}
    full = {name: _plain(value) for name, value in usual.items()} | given
    odd = [
        f"{name} {value}" for name, value in given.items() if name not in _FOLLOWED and value != _plain(usual.get(name))
    ]
    widths, layers, heads = full["block_out_channels"], full["layers_per_block"], full["attention_head_dim"]
    downwards, upwards = full["down_block_types"], full["up_block_types"]
    attention = [_DOWN.get(kind) for kind in downwards]
    if None in attention or attention != [_UP.get(kind) for kind in reversed(upwards)] or len(widths) != len(downwards):
        odd.append(f"down_block_types {downwards} and up_block_types {upwards}")
    elif not any(kind == "factorised" for kind in attention):
        odd.append(f"down_block_types {downwards}, none of which looks at the text")
    if not isinstance(layers, int):
        odd.append(f"layers_per_block {layers}")
    if not isinstance(full["cross_attention_dim"], int):
        odd.append(f"cross_attention_dim {full['cross_attention_dim']}")
    # It names so, for a reason of history, how many heads there are.
    heads = [heads] * len(widths) if isinstance(heads, int) else heads
    if len(heads) != len(widths) or any(width % number for width, number in zip(widths, heads, strict=False)):
        odd.append(f"attention_head_dim {heads}")
    if any(width % 32 for width in widths):
        odd.append(f"block_out_channels {widths}")
    if odd:
        raise ModelError(
            f"The U-Net of {origin} cannot become a LatentUNet3D, which is built as Stable Diffusion 1 and 2 are: it "
            f"has {'; '.join(odd)}."
        )
    return {
        "in_channels": full["in_channels"],
        "out_channels": full["out_channels"],
        "cross_attention_dim": full["cross_attention_dim"],
        "model_channels": widths[0],
        "channel_mult": [width / widths[0] for width in widths],
        "num_res_blocks": layers,
        "attention": attention,
        "head_dim": [width // number for width, number in zip(widths, heads, strict=True)],
        "dropout": full["dropout"],
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _sources(name: str) -> tuple[str, ...]:
    """The names in diffusers of what one weight here holds."""
    for ours, theirs in _PARTS.items():
        name = re.sub(ours, theirs, name)
    whole, _, kind = name.rpartition(".")
    rest, _, last = whole.rpartition(".")
    return tuple(f"{rest}.{part}.{kind}" for part in _TOGETHER[last]) if last in _TOGETHER else (name,)
