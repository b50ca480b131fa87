"""A U-Net that denoises a codec's latents: an image model's, with convolution and attention along time added.

Within a frame it is built as the U-Net of Stable Diffusion (Rombach et al. 2022, arXiv:2112.10752), so that the weights
of such a model fit it. What looks along time is a residual branch that begins at zero, as in Singer et al. 2022
(arXiv:2209.14792) and Blattmann et al. 2023 (arXiv:2304.08818): with an image model's weights each frame is at first
denoised as that model would.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError
from .attention import CrossAttention, FeedForward
from .causal import same_size
from .conditions import Conditions
from .denoiser import Denoiser, DenoiserOutput
from .layers import Conv3d, CosineField, ModulatedNorm, TimestepEmbedding, check_positive, mean_token, zeroed
from .spacetime import SpacetimeAttention, check_attention


class LatentUNet3D(Denoiser):
    """Predicts what latents `x_t` were made of: noise, velocity or clean latents, as the objective asks.

    Any number of frames, and any height and width that are multiples of `strides`.

    Args:
        in_channels, out_channels: channels of the latents; more inputs than outputs for image conditions.
        cross_attention_dim: width of the text embedding.
        model_channels: width of the first level; the embedding of the timestep is four times as wide.
        channel_mult: width of each level as a multiple of `model_channels`.
        num_res_blocks: blocks in each level on the way down; on the way up there is one more.
        attention: one for each level, see `spacetime`; at "none" there is no attention to the text either.
        head_dim: width of an attention head; one for all levels, or one for each.
        dropout: in the residual blocks.
        conditions: what it is told besides the caption: name -> kind and arguments, see `Conditions`.
    """

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        cross_attention_dim: int = 768,
        model_channels: int = 64,
        channel_mult: Sequence[float] = (1, 2, 4),
        num_res_blocks: int = 2,
        attention: Sequence[str] = ("factorised", "factorised", "factorised"),
        head_dim: int | Sequence[int] = 32,
        dropout: float = 0.0,
        conditions: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        super().__init__()
        check_positive(model_channels=model_channels, channel_mult=channel_mult, head_dim=head_dim)
        heads = [head_dim] * len(channel_mult) if isinstance(head_dim, int) else [*head_dim]
        if not len(attention) == len(heads) == len(channel_mult):
            raise ModelError(
                f"channel_mult has {len(channel_mult)} levels, attention {len(attention)} and head_dim {len(heads)}. "
                "Each level needs one; head_dim can be one for all."
            )
        causal = check_attention(attention)
        self.model_channels = model_channels
        self.time_embed_dim = 4 * model_channels
        self.num_levels = len(channel_mult)

        widths = [round(model_channels * multiple) for multiple in channel_mult]
        block = functools.partial(
            Block,
            time_channels=self.time_embed_dim,
            text_channels=cross_attention_dim,
            dropout=dropout,
            causal=causal,
        )
        self.time_embedding = TimestepEmbedding(model_channels, self.time_embed_dim)
        # what image models do not have: the caption as a whole, and where and when things are, see `UNet3D`
        self.text_embedding = zeroed(nn.Linear(cross_attention_dim, self.time_embed_dim))
        self.place_embedding = zeroed(CosineField(cross_attention_dim, widths[0], (1, 3, 3) if causal else (3, 3, 3)))

        # `down` is listed from the finest level, `up` from the coarsest: both as they are run.
        self.conditioning = Conditions(conditions, in_channels, self.time_embed_dim)
        self.enter = same_size(in_channels + self.conditioning.channels, widths[0], (1, 3, 3))
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        width, skips = widths[0], [widths[0]]
        levels = [*zip(widths, attention, heads, strict=True)]
        for level, (wider, kind, head) in enumerate(levels):
            if level > 0:
                self.shrink.append(Conv3d(width, width, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)))
                skips.append(width)
            blocks = nn.ModuleList()
            for _ in range(num_res_blocks):
                blocks.append(block(width, wider, kind, head))
                width = wider
                skips.append(width)
            self.down.append(blocks)
        deepest = next((kind for kind in reversed(attention) if kind != "none"), "none")
        self.middle = nn.ModuleList(block(width, width, kind, heads[-1]) for kind in (deepest, "none"))
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for step, (narrower, kind, head) in enumerate(reversed(levels)):
            if step > 0:
                self.grow.append(same_size(width, width, (1, 3, 3)))
            blocks = nn.ModuleList()
            for _ in range(num_res_blocks + 1):
                blocks.append(block(width + skips.pop(), narrower, kind, head))
                width = narrower
            self.up.append(blocks)

        self.norm = norm(widths[0])
        self.leave = zeroed(same_size(widths[0], out_channels, (1, 3, 3)))

    @property
    def strides(self) -> tuple[int, int, int]:
        """Frames, height and width of the latents must be multiples of these."""
        return 1, 2 ** (self.num_levels - 1), 2 ** (self.num_levels - 1)

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
            added_embedding: `[B, time_embed_dim]`, what else is wanted, added to the embedding of the timestep.
            conditions: what is told of its conditions, by name; those that are left out are not given.

        Raises:
            UsageError: height or width are no multiples of `strides`.
        """
        self.rules.check(sample.shape[2:])
        text, mask = encoder_hidden_states, encoder_attention_mask
        mask = None if mask is None else mask.bool()
        timestep = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])  # [B]
        embedding = self.time_embedding(timestep)  # [B, time_embed_dim]
        sample, added_embedding = self.conditioning.enter(sample, conditions, added_embedding)
        x = self.enter(sample.contiguous(memory_format=torch.channels_last_3d))  # [B, C, T, H, W]
        if text is not None:
            whole = mean_token(text, mask)
            embedding = embedding + self.text_embedding(whole)
            t, h, w = x.shape[2:]
            x = x + self.place_embedding(whole, (t, h, w))
        embedding = F.silu(embedding if added_embedding is None else embedding + added_embedding)

        skips = [x]
        for level, blocks in enumerate(self.down.children()):
            if level > 0:
                x = self.shrink[level - 1](x)  # [B, C, T, H/2, W/2]
                skips.append(x)
            for block in blocks.children():
                x = self._run(block, x, embedding, text, mask)
                skips.append(x)
        for block in self.middle.children():
            x = self._run(block, x, embedding, text, mask)
        for step, blocks in enumerate(self.up.children()):
            if step > 0:
                x = self.grow[step - 1](doubled(x))  # [B, C, T, 2H, 2W]
            for block in blocks.children():
                x = self._run(block, torch.cat([x, skips.pop()], dim=1), embedding, text, mask)
        x = self.leave(self.norm(x)).contiguous()  # [B, out_channels, T, H, W]
        return DenoiserOutput(sample=x) if return_dict else (x,)


class Block(nn.Module):
    """A residual block told the time, convolving each frame and then along time, and attention with a feed-forward."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        attention: str,
        head_dim: int,
        *,
        time_channels: int,
        text_channels: int,
        dropout: float,
        causal: bool,
    ):
        super().__init__()
        self.norm_in = norm(channels)
        self.conv_in = same_size(channels, out_channels, (1, 3, 3))
        self.time_proj = nn.Linear(time_channels, out_channels)
        self.norm_out = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zeroed(same_size(out_channels, out_channels, (1, 3, 3)))
        self.skip = nn.Identity() if channels == out_channels else Conv3d(channels, out_channels, 1)
        self.norm_time = norm(out_channels)
        self.conv_time = zeroed(same_size(out_channels, out_channels, (3, 1, 1), causal))
        self.transformer = None
        if attention != "none":
            self.transformer = TransformerBlock(out_channels, text_channels, attention, head_dim)

    def forward(self, x: Tensor, embedding: Tensor, text: Tensor | None, mask: Tensor | None) -> Tensor:
        h = self.conv_in(self.norm_in(x)) + self.time_proj(embedding)[:, :, None, None, None]
        x = self.skip(x) + self.conv_out(self.dropout(self.norm_out(h)))
        x = x + self.conv_time(self.norm_time(x))
        return x if self.transformer is None else self.transformer(x, text, mask)


class TransformerBlock(nn.Module):
    """Attention within frames and along time, to the text, and a feed-forward, around which there is a residual."""

    def __init__(self, channels: int, text_channels: int, attention: str, head_dim: int):
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(channels, 32), channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.attentions = SpacetimeAttention(attention, channels, head_dim, places=False)
        self.text_attention = CrossAttention(channels, text_channels, head_dim)
        self.feed_forward = FeedForward(channels)
        self.proj_out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor, text: Tensor | None, mask: Tensor | None) -> Tensor:
        frames = x.transpose(1, 2)  # [B, T, C, H, W]
        h = self.norm(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).permute(0, 1, 3, 4, 2)  # [B, T, H, W, C]
        h = self.attentions(self.proj_in(h))
        if text is not None:
            h = h + self.text_attention(h.flatten(1, 3), text, mask).view(h.shape)
        h = h + self.feed_forward(h)
        return x + self.proj_out(h).permute(0, 4, 1, 2, 3)


def norm(channels: int) -> ModulatedNorm:
    """Group normalisation of each frame in 32 groups, as image models have it, and SiLU."""
    return ModulatedNorm(channels, groups=math.gcd(channels, 32), per_frame=True)


def doubled(x: Tensor) -> Tensor:
    """`[B, C, T, H, W]` -> `[B, C, T, 2H, 2W]`, each place four times."""
    x = x.permute(0, 2, 3, 4, 1)  # [B, T, H, W, C]: the order in memory
    b, t, h, w, c = x.shape
    x = x[:, :, :, None, :, None].expand(b, t, h, 2, w, 2, c).reshape(b, t, 2 * h, 2 * w, c)
    return x.permute(0, 4, 1, 2, 3)
