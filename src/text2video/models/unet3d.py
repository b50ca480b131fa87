"""A 3D U-Net that denoises videos from text: convolutions over time and space, attention along time and to the text.

The U-Net of Ho et al. 2020 (arXiv:2006.11239) with the scale-shift conditioning of Dhariwal and Nichol 2021
(arXiv:2105.05233), carried to video as in Ho et al. 2022 (arXiv:2204.03458) and, with `conv="factorised"`,
Singer et al. 2022 (arXiv:2209.14792).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError
from .attention import CrossAttention
from .causal import same_size
from .conditions import Conditions
from .denoiser import Denoiser, DenoiserOutput
from .layers import (
    Conv3d,
    CosineField,
    ModulatedNorm,
    TimestepEmbedding,
    check_positive,
    depth_to_space,
    mean_token,
    patch_of,
    space_to_depth,
    zeroed,
)
from .spacetime import SpacetimeAttention, check_attention


class UNet3D(Denoiser):
    """Predicts what a video `x_t` was made of: noise, velocity or clean video, as the objective asks.

    Any frame count and size that are multiples of `strides` work.

    Args:
        in_channels, out_channels: channels of the video; more inputs than outputs for image conditions.
        cross_attention_dim: width of the text embedding.
        model_channels: width of the first level.
        channel_mult: width of each level as a multiple of `model_channels`, fractions allowed; one level a number.
        num_res_blocks: residual blocks in each level, down and up alike.
        attention: one for each level: "none", "space" (each frame), "time" (each place along time), "factorised" (each
            frame, then along time), "full" (every place of every frame) or "causal" (as factorised, and nothing in the
            model looks at later frames: a frame's prediction is the same whatever follows it).
        downsample_time: for each step from a level to the next, whether it halves the frames too.
        patch_size: frames, height, width of the blocks of pixels that become one position at the entrance.
        conv: "3d", or "factorised": over space, then over time, with 45% of the weights and products. "2d": over space
            alone, in a model of single frames, where nothing looks along time; `inflation` makes one of videos of it.
        head_dim: width of an attention head.
        dropout: in the residual blocks.
        conditions: what it is told besides the caption: name -> kind and arguments, see `Conditions`.

    A subclass needs no decorator: its own arguments and the inherited ones are saved and loaded.
    `forward` may be overridden to condition on something more:

        class ConditionalUNet3D(UNet3D):
            def __init__(self, additional_condition_dim, **kwargs):
                super().__init__(**kwargs)
                self.proj = nn.Linear(additional_condition_dim, self.model_channels)
                self.embed = nn.Linear(self.model_channels, self.time_embed_dim)

            def forward(self, sample, timestep, encoder_hidden_states=None, condition=None, **kwargs):
                if condition is not None:  # [B, additional_condition_dim]
                    kwargs["added_embedding"] = self.embed(self.proj(condition))
                return super().forward(sample, timestep, encoder_hidden_states, **kwargs)
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        cross_attention_dim: int = 512,
        model_channels: int = 128,
        channel_mult: Sequence[float] = (1, 2, 4),
        num_res_blocks: int = 2,
        attention: Sequence[str] = ("time", "factorised", "factorised"),
        downsample_time: Sequence[bool] = (False, False),
        patch_size: Sequence[int] = (1, 1, 1),
        conv: Literal["3d", "factorised", "2d"] = "3d",
        head_dim: int = 64,
        dropout: float = 0.0,
        conditions: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        super().__init__()
        check_positive(model_channels=model_channels, channel_mult=channel_mult, head_dim=head_dim)
        self.patch_size = patch_of(patch_size)
        causal = _check_levels(channel_mult, attention, downsample_time, patch_size, conv)
        apart = causal or conv == "2d"  # what no frame may know of the others
        self.model_channels = model_channels
        self.time_embed_dim = 4 * model_channels
        self.steps = [(2 if halve else 1, 2, 2) for halve in downsample_time]

        widths = [round(model_channels * multiple) for multiple in channel_mult]
        patch = math.prod(self.patch_size)
        block = functools.partial(
            Block,
            time_channels=self.time_embed_dim,
            text_channels=cross_attention_dim,
            head_dim=head_dim,
            conv=conv,
            dropout=dropout,
            causal=causal,
            apart=apart,
        )
        self.time_embedding = TimestepEmbedding(model_channels, self.time_embed_dim)
        self.text_embedding = nn.Linear(cross_attention_dim, self.time_embed_dim)
        self.conditioning = Conditions(conditions, in_channels, self.time_embed_dim)
        self.enter = convolution(conv, patch * (in_channels + self.conditioning.channels), widths[0], causal=causal)
        self.place_embedding = CosineField(self.time_embed_dim, widths[0], (1, 3, 3) if apart else (3, 3, 3))

        # Levels are counted from the finest; `up[level]` answers `down[level]`, `grow[level]` undoes `shrink[level]`.
        repeats = range(num_res_blocks)
        self.down = nn.ModuleList(
            nn.ModuleList(block(width, width, attention=kind) for _ in repeats)
            for width, kind in zip(widths, attention, strict=True)
        )
        self.middle = block(widths[-1], widths[-1], attention=attention[-1])
        self.up = nn.ModuleList(
            nn.ModuleList(block(2 * width, width, attention=kind) for _ in repeats)
            for width, kind in zip(widths, attention, strict=True)
        )
        steps = [(math.prod(step), *pair) for step, pair in zip(self.steps, pairwise(widths), strict=True)]
        self.shrink = nn.ModuleList(Conv3d(depth * fine, coarse, 1) for depth, fine, coarse in steps)
        self.grow = nn.ModuleList(Conv3d(coarse, depth * fine, 1) for depth, fine, coarse in steps)

        self.norm = ModulatedNorm(widths[0], per_frame=apart)
        last = "2d" if conv == "2d" else "3d"
        self.leave = convolution(last, widths[0], patch * out_channels, zero=True, causal=causal)

    @property
    def strides(self) -> tuple[int, int, int]:
        """Frames, height and width must be multiples of these."""
        t, h, w = (math.prod(factors) for factors in zip(self.patch_size, *self.steps, strict=True))
        return t, h, w

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        added_embedding: Tensor | None = None,
        conditions: Mapping[str, Tensor] | None = None,
        return_dict: bool = True,
    ) -> DenoiserOutput | tuple[Tensor]:
        """The prediction for `sample` at `timestep`.

        Args:
            sample: `x_t`, `[B, in_channels, T, H, W]`.
            timestep: `[B]` or one for all, whole or fractional, from 0 (clean) to 1000 (noise).
            encoder_hidden_states: the text `[B, L, cross_attention_dim]`; without it no text is seen.
            encoder_attention_mask: bool `[B, L]`, true where there is text.
            added_embedding: `[B, time_embed_dim]`, what else is wanted, added to the embedding of the caption.
            conditions: what is told of its conditions, by name; those that are left out are not given.

        Raises:
            UsageError: frames, height or width are no multiples of `strides`.
        """
        self.rules.check(sample.shape[2:])
        text, mask = encoder_hidden_states, encoder_attention_mask
        mask = None if mask is None else mask.bool()
        timestep = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])  # [B]
        embedding = self.time_embedding(timestep)  # [B, time_embed_dim]
        sample, wanted = self.conditioning.enter(sample, conditions, added_embedding)
        if text is not None:
            # What the whole caption says reaches every block from the first step on, before cross-attention has learned
            # where to look (the pooled text of Imagen, Saharia et al. 2022, section 2.3).
            pooled = self.text_embedding(mean_token(text, mask))
            wanted = pooled if wanted is None else wanted + pooled
        embedding = F.silu(embedding if wanted is None else embedding + wanted)

        # Channels last throughout: a CPU convolves three times as fast, and attention needs no copies.
        x = space_to_depth(sample, self.patch_size).contiguous(memory_format=torch.channels_last_3d)
        x = self.enter(x)  # [B, C, T/t, H/h, W/w]
        if wanted is not None:
            t, h, w = x.shape[2:]
            x = x + self.place_embedding(wanted, (t, h, w))
        skips = []
        for level, blocks in enumerate(self.down.children()):
            if level > 0:
                x = self.shrink[level - 1](space_to_depth(x, self.steps[level - 1]))  # the coarser level's shape
            for block in blocks.children():
                x = self._run(block, x, embedding, text, mask)
                skips.append(x)
        x = self._run(self.middle, x, embedding, text, mask)
        for level, blocks in reversed(list(enumerate(self.up.children()))):
            for block in blocks.children():
                x = self._run(block, torch.cat([x, skips.pop()], dim=1), embedding, text, mask)
            if level > 0:
                x = depth_to_space(self.grow[level - 1](x), self.steps[level - 1])  # the finer level's shape
        x = self.leave(self.norm(x))
        x = depth_to_space(x, self.patch_size).contiguous()  # [B, out_channels, T, H, W]
        return DenoiserOutput(sample=x) if return_dict else (x,)


class Block(nn.Module):
    """A residual convolution block told the time, then attention to the text, then the level's self-attention."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        time_channels: int,
        text_channels: int,
        attention: str,
        head_dim: int,
        conv: str,
        dropout: float,
        causal: bool,
        apart: bool,
    ):
        super().__init__()
        self.norm_in = ModulatedNorm(channels, per_frame=apart)
        self.conv_in = convolution(conv, channels, out_channels, causal=causal)
        self.modulation = nn.Linear(time_channels, 2 * out_channels)
        self.norm_out = ModulatedNorm(out_channels, per_frame=apart)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = convolution(conv, out_channels, out_channels, zero=True, causal=causal)
        self.skip = nn.Identity() if channels == out_channels else Conv3d(channels, out_channels, 1)
        self.text_attention = CrossAttention(out_channels, text_channels, head_dim)
        self.attentions = SpacetimeAttention(attention, out_channels, head_dim)

    def forward(self, x: Tensor, embedding: Tensor, text: Tensor | None, mask: Tensor | None) -> Tensor:
        scale, shift = self.modulation(embedding).chunk(2, dim=1)  # each [B, C]
        h = self.conv_in(self.norm_in(x))
        h = self.dropout(self.norm_out(h, scale, shift))
        x = self.skip(x) + self.conv_out(h)

        x = x.permute(0, 2, 3, 4, 1)  # [B, T, H, W, C]: the order in memory, so a view
        if text is not None:
            x = x + self.text_attention(x.flatten(1, 3), text, mask).view(x.shape)
        return self.attentions(x).permute(0, 4, 1, 2, 3)  # [B, C, T, H, W]


def convolution(kind: str, channels: int, out_channels: int, zero: bool = False, causal: bool = False) -> nn.Module:
    """A 3 x 3 x 3 convolution, its two factors, or the one over space alone; the last at zero where asked."""
    if kind in ("3d", "2d"):
        last = same_size(channels, out_channels, (3, 3, 3) if kind == "3d" else (1, 3, 3), causal)
        return zeroed(last) if zero else last
    if kind != "factorised":
        raise ModelError(f'conv is {kind!r}; it can be "3d", "factorised" or "2d".')
    space = same_size(channels, out_channels, (1, 3, 3))
    time = same_size(out_channels, out_channels, (3, 1, 1), causal)
    return nn.Sequential(space, zeroed(time) if zero else time)


def _check_levels(
    channel_mult: Sequence[float],
    attention: Sequence[str],
    downsample_time: Sequence[bool],
    patch_size: Sequence[int],
    conv: str,
) -> bool:
    """Whether the model is causal."""
    levels = len(channel_mult)
    if len(attention) != levels or len(downsample_time) != levels - 1:
        raise ModelError(
            f"channel_mult has {levels} levels, attention {len(attention)} and downsample_time "
            f"{len(downsample_time)}. Each level needs one of attention, and each step between two levels one of "
            f"downsample_time: give {levels} and {levels - 1}."
        )
    causal = check_attention(attention)
    along_time = patch_size[0] > 1 or any(downsample_time) or not {*attention} <= {"none", "space"}
    if conv == "2d" and along_time:
        raise ModelError(
            f"conv is 2d, so nothing looks along time, and attention is {' '.join(attention)}, patch_size "
            f"{patch_size[0]} in time, downsample_time {' '.join(map(str, downsample_time)).lower()}. Give attention "
            "none or space, a patch_size of 1 in time and downsample_time false; or another conv."
        )
    if causal and (patch_size[0] > 1 or any(downsample_time)):
        raise ModelError(
            "attention is causal, and patch_size or downsample_time makes one position of several frames, of which "
            "the first would see the last. Give a patch_size of 1 in time, and downsample_time false."
        )
    return causal
