"""A 3D U-Net that denoises videos from text: convolutions over time and space, attention along time and to the text.

The U-Net of Ho et al. 2020 (arXiv:2006.11239) with the scale-shift conditioning of Dhariwal and Nichol 2021
(arXiv:2105.05233), carried to video as in Ho et al. 2022 (arXiv:2204.03458) and, with `conv="factorised"`,
Singer et al. 2022 (arXiv:2209.14792).
"""

import functools
import inspect
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from ..errors import ModelError
from ..sizes import ShapeRules
from .attention import CrossAttention, SelfAttention
from .layers import (
    Conv3d,
    CosineField,
    ModulatedNorm,
    TimestepEmbedding,
    depth_to_space,
    mean_token,
    sinusoid,
    space_to_depth,
    zeroed,
)

ATTENTION = ("none", "time", "space+time", "full")


@dataclass
class UNet3DOutput(BaseOutput):
    """`sample`: the prediction `[B, out_channels, T, H, W]`."""

    sample: Tensor


class UNet3D(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Predicts what a video `x_t` was made of: noise, velocity or clean video, as the objective asks.

    Any frame count and size that are multiples of `strides` work.

    Args:
        in_channels, out_channels: channels of the video; more inputs than outputs for image conditions.
        cross_attention_dim: width of the text embedding.
        model_channels: width of the first level.
        channel_mult: width of each level as a multiple of `model_channels`, fractions allowed; one level a number.
        num_res_blocks: residual blocks in each level, down and up alike.
        attention: one for each level: "none", "time" (each place along time), "space+time" (each frame, then along
            time) or "full" (every place of every frame).
        downsample_time: for each step from a level to the next, whether it halves the frames too.
        patch_size: frames, height, width of the blocks of pixels that become one position at the entrance.
        conv: "3d", or "factorised": over space, then over time, with 45% of the weights and products.
        head_dim: width of an attention head.
        dropout: in the residual blocks.

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

    _supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012 - the name and type that diffusers reads
    _repeated_blocks = ["Block"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["norm"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        cross_attention_dim: int = 512,
        model_channels: int = 128,
        channel_mult: Sequence[float] = (1, 2, 4),
        num_res_blocks: int = 2,
        attention: Sequence[str] = ("time", "space+time", "space+time"),
        downsample_time: Sequence[bool] = (False, False),
        patch_size: Sequence[int] = (1, 1, 1),
        conv: Literal["3d", "factorised"] = "3d",
        head_dim: int = 64,
        dropout: float = 0.0,
    ):
        super().__init__()
        _check_levels(channel_mult, attention, downsample_time)
        self.model_channels = model_channels
        self.time_embed_dim = 4 * model_channels
        self.gradient_checkpointing = False
        self.patch_size = (patch_size[0], patch_size[1], patch_size[2])
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
        )
        self.time_embedding = TimestepEmbedding(model_channels, self.time_embed_dim)
        self.text_embedding = nn.Linear(cross_attention_dim, self.time_embed_dim)
        self.enter = convolution(conv, patch * in_channels, widths[0])
        self.place_embedding = CosineField(self.time_embed_dim, widths[0])

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

        self.norm = ModulatedNorm(widths[0])
        self.leave = zeroed(Conv3d(widths[0], patch * out_channels, 3, padding=1))

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        # diffusers loads a model in a pipeline folder only when the module that defines it holds this name.
        if module := sys.modules.get(cls.__module__):
            vars(module).setdefault("ModelMixin", ModelMixin)
        if "__init__" in vars(cls):
            cls.__init__ = _recorded(cls)

    @property
    def strides(self) -> tuple[int, int, int]:
        """Frames, height and width must be multiples of these."""
        t, h, w = (math.prod(factors) for factors in zip(self.patch_size, *self.steps, strict=True))
        return t, h, w

    @property
    def rules(self) -> ShapeRules:
        """The videos that it can take."""
        return ShapeRules.multiples(*self.strides)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        added_embedding: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet3DOutput | tuple[Tensor]:
        """The prediction for `sample` at `timestep`.

        Args:
            sample: `x_t`, `[B, in_channels, T, H, W]`.
            timestep: `[B]` or one for all, whole or fractional, from 0 (clean) to 1000 (noise).
            encoder_hidden_states: the text `[B, L, cross_attention_dim]`; without it no text is seen.
            encoder_attention_mask: bool `[B, L]`, true where there is text.
            added_embedding: `[B, time_embed_dim]`, what else is wanted, added to the embedding of the caption.

        Raises:
            UsageError: frames, height or width are no multiples of `strides`.
        """
        self.rules.check(sample.shape[2:])
        text, mask = encoder_hidden_states, encoder_attention_mask
        mask = None if mask is None else mask.bool()
        timestep = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])  # [B]
        embedding = self.time_embedding(timestep)  # [B, time_embed_dim]
        wanted = added_embedding
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
        return UNet3DOutput(sample=x) if return_dict else (x,)

    def _run(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self._gradient_checkpointing_func and self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, *inputs)
        return block(*inputs)


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
    ):
        super().__init__()
        self.norm_in = ModulatedNorm(channels)
        self.conv_in = convolution(conv, channels, out_channels)
        self.modulation = nn.Linear(time_channels, 2 * out_channels)
        self.norm_out = ModulatedNorm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = convolution(conv, out_channels, out_channels, zero=True)
        self.skip = nn.Identity() if channels == out_channels else Conv3d(channels, out_channels, 1)
        self.text_attention = CrossAttention(out_channels, text_channels, head_dim)
        self.attentions = nn.ModuleDict(
            {axes: SelfAttention(out_channels, head_dim) for axes in attention.split("+") if axes != "none"}
        )

    def forward(self, x: Tensor, embedding: Tensor, text: Tensor | None, mask: Tensor | None) -> Tensor:
        scale, shift = self.modulation(embedding).chunk(2, dim=1)  # each [B, C]
        h = self.conv_in(self.norm_in(x))
        h = self.dropout(self.norm_out(h, scale, shift))
        x = self.skip(x) + self.conv_out(h)

        x = x.permute(0, 2, 3, 4, 1)  # [B, T, H, W, C]: the order in memory, so a view
        if text is not None:
            x = x + self.text_attention(x.flatten(1, 3), text, mask).view(x.shape)
        for axes, layer in self.attentions.items():
            x = x + _attend(layer, x, axes)
        return x.permute(0, 4, 1, 2, 3)  # [B, C, T, H, W]


def _attend(layer: nn.Module, x: Tensor, axes: str) -> Tensor:
    """Self-attention along some axes of `[B, T, H, W, C]`, in the same shape."""
    b, t, h, w, c = x.shape
    if axes == "time":
        sequences = x.permute(0, 2, 3, 1, 4).reshape(b * h * w, t, c)
        return layer(sequences, _positions((t,), c, x)).view(b, h, w, t, c).permute(0, 3, 1, 2, 4)
    if axes == "space":
        return layer(x.reshape(b * t, h * w, c), _positions((h, w), c, x)).view(x.shape)
    return layer(x.reshape(b, t * h * w, c), _positions((t, h, w), c, x)).view(x.shape)


def _positions(sizes: tuple[int, ...], channels: int, like: Tensor) -> Tensor:
    """Sinusoids of the places of a grid, an equal share of the channels for each axis: `[places, channels]`."""
    share = channels // len(sizes)
    axes = [sinusoid(torch.arange(size, device=like.device), share) for size in sizes]
    shape = (*sizes, share)
    grid = [
        axis.view(*(size if i == j else 1 for j, size in enumerate(sizes)), share).expand(shape)
        for i, (axis, size) in enumerate(zip(axes, sizes, strict=True))
    ]
    return F.pad(torch.cat(grid, dim=-1), (0, channels - share * len(sizes))).flatten(0, -2)


def convolution(kind: str, channels: int, out_channels: int, zero: bool = False) -> nn.Module:
    """A 3 x 3 x 3 convolution, or its two factors, the last at zero where asked."""
    if kind == "3d":
        last = Conv3d(channels, out_channels, 3, padding=1)
        return zeroed(last) if zero else last
    if kind != "factorised":
        raise ModelError(f'conv is {kind!r}; it can be "3d" or "factorised".')
    space = Conv3d(channels, out_channels, (1, 3, 3), padding=(0, 1, 1))
    time = Conv3d(out_channels, out_channels, (3, 1, 1), padding=(1, 0, 0))
    return nn.Sequential(space, zeroed(time) if zero else time)


def _check_levels(channel_mult: Sequence[float], attention: Sequence[str], downsample_time: Sequence[bool]):
    levels = len(channel_mult)
    if len(attention) != levels or len(downsample_time) != levels - 1:
        raise ModelError(
            f"channel_mult has {levels} levels, attention {len(attention)} and downsample_time "
            f"{len(downsample_time)}. Each level needs one of attention, and each step between two levels one of "
            f"downsample_time: give {levels} and {levels - 1}."
        )
    if unknown := [kind for kind in attention if kind not in ATTENTION]:
        raise ModelError(f"attention has {unknown[0]!r}; each level can have one of {', '.join(ATTENTION)}.")


def _recorded(cls: type[UNet3D]):
    """The subclass's `__init__`, which also records its arguments in the config and shows the inherited ones.

    diffusers saves and passes only arguments that it finds in the signature of `__init__`.
    """
    init = cls.__init__
    own = inspect.signature(init)
    parameters = dict(own.parameters)
    rest = next((p for p in own.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    if rest is not None:
        del parameters[rest.name]
        inherited = inspect.signature(super(cls, cls).__init__).parameters
        parameters |= {name: p.replace(kind=p.KEYWORD_ONLY) for name, p in inherited.items() if name not in parameters}

    @functools.wraps(init)
    def recording_init(self: UNet3D, *args: Any, **kwargs: Any):
        bound = own.bind(self, *args, **kwargs)
        bound.apply_defaults()
        given = {name: value for name, value in list(bound.arguments.items())[1:] if name in parameters}
        init(self, *args, **kwargs)
        self.register_to_config(**given)

    vars(recording_init)["__signature__"] = own.replace(parameters=list(parameters.values()))
    return recording_init
