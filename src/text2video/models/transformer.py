"""A diffusion transformer over spacetime patches that denoises videos from text, at any size and duration.

The diffusion transformer of Peebles and Xie 2023 (arXiv:2212.09748) with adaptive layer norms that start as nothing
(AdaLN-Zero), cross-attention to the text and one modulation shared by all blocks, to which each adds a table of its own
(Chen et al. 2023, arXiv:2310.00426), rotary positions of frame, row and column (Su et al. 2021, arXiv:2104.09864) and
normalised queries and keys (Dehghani et al. 2023, arXiv:2302.05442).

The shared modulation: a layer of its own would hold 6 of a block's 20 C^2 weights on average, and yet add nothing to
the products of a token. Shared, the same number of weights is 40% more depth.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention import AttentionMixin, AttentionModuleMixin
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor, nn

from ..errors import ModelError, UsageError
from .attention import attention
from .conditions import Conditions
from .denoiser import Denoiser, DenoiserOutput
from .fused import gated, modulated, normed_rotated
from .layers import TimestepEmbedding, check_positive, mean_token, patch_of, sinusoid, zeroed
from .layout import TIME_ATTENTION, Attend, Grid, Layout
from .packing import Row

# Parameters, within a tenth for texts of width 512 -> layers, heads, width of a head. Widths of 128 keep a GPU's
# attention kernels busier.
SIZES: dict[str, dict[str, int]] = {
    name: {"num_layers": layers, "num_attention_heads": heads, "attention_head_dim": width}
    for name, layers, heads, width in (
        ("5M", 8, 3, 64),
        ("30M", 14, 6, 64),
        ("130M", 16, 12, 64),
        ("450M", 24, 18, 64),
        ("1B", 30, 12, 128),
        ("3B", 32, 20, 128),
        ("7B", 38, 28, 128),
        ("14B", 38, 40, 128),
    )
}

PLACE = 64  # sines and cosines of a row, and of a column

# Where the tokens of a row are dealt out to processes, and brought together again.
DEALT = ContextParallelInput(split_dim=1, expected_dims=3, split_output=True)
TURNED = ContextParallelInput(split_dim=1, expected_dims=4, split_output=True)
CONTEXT_PARALLEL = {
    "enter": {0: DEALT},
    "place_embedding": {0: DEALT},
    "rope": {0: TURNED, 1: TURNED},
    "leave": ContextParallelOutput(gather_dim=1, expected_dims=3),
}


class VideoTransformer(Denoiser, AttentionMixin, CacheMixin):
    """Predicts what a video `x_t` was made of: noise, velocity or clean video, as the objective asks.

    Any frame count and size that are multiples of `patch_size` work, also those it was never trained on.

    Args:
        in_channels, out_channels: channels of the video; more inputs than outputs for image conditions.
        cross_attention_dim: width of the text embedding.
        num_layers, num_attention_heads, attention_head_dim: depth, and the two factors of the width; see `SIZES`.
        patch_size: frames, height, width of the block of pixels or latents that becomes one token.
        time_attention: who sees whom: "full", "factorised" or "causal", see `Grid`. The weights are of the same kind
            in all three, so that one can start from another.
        causal_block: frames of tokens that see one another in causal attention.
        text_interval: every so many blocks, from the first on, one looks at the text: with 2 and factorised attention
            those of frames. The others save a quarter of their weights, and depth takes them.
        mlp_ratio: inner width of the feed-forward, in widths.
        conditions: what it is told besides the caption: name -> kind and arguments, see `Conditions`.
    """

    _no_split_modules = ["TransformerBlock"]  # noqa: RUF012 - the name and type that diffusers reads
    _repeated_blocks = ["TransformerBlock"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["norm", "enter", "table", "embedding"]  # noqa: RUF012

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        cross_attention_dim: int = 512,
        num_layers: int = 12,
        num_attention_heads: int = 6,
        attention_head_dim: int = 64,
        patch_size: Sequence[int] = (1, 2, 2),
        time_attention: str = "full",
        causal_block: int = 1,
        text_interval: int = 2,
        mlp_ratio: float = 4.0,
        conditions: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        super().__init__()
        sizes = {"num_layers": num_layers, "num_attention_heads": num_attention_heads, "mlp_ratio": mlp_ratio}
        check_positive(**sizes, causal_block=causal_block, text_interval=text_interval)
        if time_attention not in TIME_ATTENTION:
            raise ModelError(f"time_attention is {time_attention!r}; choose one of {', '.join(TIME_ATTENTION)}.")
        if attention_head_dim % 2 or attention_head_dim < 6:
            raise ModelError(
                f"attention_head_dim is {attention_head_dim}; three axes share its pairs: give an even number from 6."
            )
        self.patch_size = patch_of(patch_size)
        width, patch = num_attention_heads * attention_head_dim, math.prod(self.patch_size)
        self.time_embedding = TimestepEmbedding(256, width)
        self.text_embedding = nn.Linear(cross_attention_dim, width)
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.words = nn.Sequential(nn.Linear(cross_attention_dim, width), nn.GELU("tanh"), nn.Linear(width, width))
        self.rope = Rotation(attention_head_dim)
        self.conditioning = Conditions(conditions, in_channels, width)
        self.enter = nn.Linear(patch * (in_channels + self.conditioning.channels), width)
        self.place_embedding = nn.Linear(2 * PLACE, width, bias=False)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, attention_head_dim, int(width * mlp_ratio), layer % text_interval == 0)
            for layer in range(num_layers)
        )
        self.table = nn.Parameter(torch.zeros(2 * width))
        self.leave = zeroed(nn.Linear(width, patch * out_channels))

    @property
    def strides(self) -> tuple[int, int, int]:
        """Frames, height and width must be multiples of these."""
        return self.patch_size

    @property
    def _cp_plan(self) -> dict[str, Any]:
        """What `enable_parallelism` of diffusers asks for. Only full attention is its own all-to-all: the others know
        frames, and a process has no whole ones.

        Raises:
            UsageError: this model has another attention.
        """
        own: Any = self.config
        if own.time_attention != "full":
            raise UsageError(
                f"Context parallelism is for full attention, and this model's time_attention is {own.time_attention}."
            )
        return CONTEXT_PARALLEL

    def layout(self, sample: Tensor | Sequence[Tensor]) -> Layout:
        """The layout of a batch of videos `[B, C, T, H, W]`, or of several of any sizes in one row.

        Raises:
            UsageError: frames, height or width are no multiples of `strides`.
        """
        if isinstance(sample, Tensor):
            return self.grid(sample)
        return Row.of([self.grid(clip[None]) for clip in sample])

    def grid(self, sample: Tensor) -> Grid:
        """The layout of a batch of videos `[B, C, T, H, W]`.

        Raises:
            UsageError: frames, height or width are no multiples of `strides`.
        """
        self.rules.check(sample.shape[2:])
        t, h, w = (size // step for size, step in zip(sample.shape[2:], self.patch_size, strict=True))
        own: Any = self.config
        return Grid((t, h, w), self.patch_size, own.time_attention, own.causal_block, device=sample.device)

    def forward(
        self,
        sample: Any,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        added_embedding: Tensor | None = None,
        conditions: Mapping[str, Tensor] | None = None,
        layout: Layout | None = None,
        return_dict: bool = True,
    ) -> DenoiserOutput | tuple[Any]:
        """The prediction for `sample` at `timestep`.

        Args:
            sample: `x_t`, `[B, in_channels, T, H, W]`, or a list of B clips `[in_channels, T, H, W]` of any sizes: the
                prediction is then such a list too. With a layout, what that takes.
            timestep: `[B]` or one for all, whole or fractional, from 0 (clean) to 1000 (noise); or one for each frame
                of tokens, `[B, T / patch_size[0]]`.
            encoder_hidden_states: the text `[B, L, cross_attention_dim]`; without it no text is seen.
            encoder_attention_mask: bool `[B, L]`, true where there is text.
            added_embedding: `[B, width]`, what else is wanted, added to the embedding of the caption.
            conditions: what is told of its conditions, by name; those that are left out are not given.
            layout: how the sample lies as tokens, and who sees whom; None: `self.layout(sample)`. With another,
                timesteps and texts are one for each of its clips.

        Raises:
            UsageError: frames, height or width are no multiples of `strides`, or the timesteps are too few or too many.
        """
        layout = layout or self.layout(sample)
        timestep = self._timesteps(timestep, len(sample), layout)
        sample, wanted = self.conditioning.enter(sample, conditions, added_embedding)
        dtype = self.enter.weight.dtype
        positions = layout.positions
        # Rotation tells how far apart tokens are; where in the picture they are it does not. When is left to it alone,
        # so that a video can be of any length.
        places = self.place_embedding(sinusoid(positions[..., 1:], PLACE).flatten(-2).to(dtype))  # [1 or R, L, C]
        x = self.enter(layout.fold(sample).to(dtype)) + places  # [R, L, C]
        text, mask = encoder_hidden_states, encoder_attention_mask
        mask = None if mask is None else mask.bool()

        embedding = self.time_embedding(timestep.to(x.device))  # [B, C] or [B, frames, C]
        if text is not None:
            text = text.to(dtype)
            # What the whole caption says reaches every block from the first step on, see UNet3D.
            pooled = self.text_embedding(mean_token(text, mask))  # [B, C]
            wanted = pooled if wanted is None else wanted + pooled
            text = self.words(layout.ordered(text))  # [B, S, C]
        if wanted is not None:
            embedding = embedding + (wanted if embedding.ndim == 2 else wanted[:, None])
        embedding = F.silu(layout.ordered(embedding)).flatten(0, -2)  # [timesteps, C]
        words = layout.words(None if mask is None else layout.ordered(mask))
        context = Context(self.modulation(embedding), layout.lengths, self.rope(positions), text, words)
        for layer, block in enumerate(self.blocks.children()):
            x = self._run(block, x, context, layout.tokens(layer))
        shift, scale = (self.table + embedding.repeat(1, 2)).chunk(2, dim=1)
        x = self.leave(modulated(x, shift, scale, layout.lengths))  # [R, L, P]
        found = layout.unfold(x)  # [B, out_channels, T, H, W]
        return DenoiserOutput(sample=found) if return_dict else (found,)

    def _timesteps(self, timestep: Tensor | float, count: int, layout: Layout) -> Tensor:
        """One for each of the videos, or of their frames of tokens."""
        timestep = torch.as_tensor(timestep)
        if not timestep.ndim:
            timestep = timestep.expand(count)
        frames = (count, layout.sizes[0]) if isinstance(layout, Grid) else None
        if isinstance(layout, Grid | Row) and timestep.shape not in ((count,), frames):
            also = f", or one for each frame of tokens, {list(frames)}" if frames else ""
            raise UsageError(f"timestep is {list(timestep.shape)}: give one for each video, {[count]}{also}.")
        if self._parallel_config is not None and (timestep.ndim > 1 or not isinstance(layout, Grid)):
            raise UsageError(
                "Context parallelism deals out the tokens of videos of one size, each with one timestep: pack no "
                "clips, and give no timesteps of frames."
            )
        return timestep


@dataclass(frozen=True)
class Context:
    """What all blocks are told alike."""

    modulation: Tensor  # [timesteps, 6C]
    lengths: Sequence[int] | None  # tokens that each timestep is said of; None: as many for each
    rotation: tuple[Tensor, Tensor]  # cosines and sines, each [1 or R, L, 1, D/2]
    text: Tensor | None  # [B, S, C]
    words: Attend


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text or none, and a feed-forward over `[R, L, C]`; it starts as the identity."""

    def __init__(self, width: int, head_dim: int, hidden: int, reads: bool):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(6 * width))
        self.attention = SelfAttention(width, head_dim)
        self.text_norm = nn.LayerNorm(width) if reads else None
        self.text_attention = CrossAttention(width, head_dim) if reads else None
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)

    def forward(self, hidden_states: Tensor, context: Context, attend: Attend) -> Tensor:
        x, lengths = hidden_states, context.lengths
        parts = (self.table + context.modulation).chunk(6, dim=1)  # each [timesteps, C]
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        x = gated(x, gate, self.attention(modulated(x, shift, scale, lengths), context.rotation, attend), lengths)
        if self.text_norm is not None and self.text_attention is not None and context.text is not None:
            x = x + self.text_attention(self.text_norm(x), context.text, context.words)
        hidden = F.gelu(self.widen(modulated(x, shift_mlp, scale_mlp, lengths)), approximate="tanh")
        return gated(x, gate_mlp, self.narrow(hidden), lengths)


# diffusers' caches of whole blocks ask here where a block's tokens are.
TransformerBlockRegistry.register(TransformerBlock, TransformerBlockMetadata(return_hidden_states_index=0))


class Processor:
    """Softmax attention by diffusers' dispatcher, as `set_attention_backend` says; on a CPU by our own kernels."""

    _attention_backend = None  # the names that diffusers sets
    _parallel_config = None

    def __call__(self, q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        if self._attention_backend is None and self._parallel_config is None and q_BLND.device.type == "cpu":
            return attention(q_BLND, k_BSND, v_BSND, mask_BS)
        mask = None
        if mask_BS is not None:
            # a row that sees no key gets zeros, not NaN
            v_BSND = v_BSND * mask_BS[:, :, None, None].to(v_BSND.dtype)
            mask = (mask_BS | ~mask_BS.any(1, keepdim=True))[:, None, None, :]  # [B, 1, 1, S]
        return dispatch_attention_fn(
            q_BLND,
            k_BSND,
            v_BSND,
            attn_mask=mask,
            # flash and sage kernels refuse a mask, which only the short text has
            backend=self._attention_backend if mask is None else AttentionBackendName.NATIVE,
            # texts are whole in every process
            parallel_config=self._parallel_config if mask_BS is None else None,
        )


class SelfAttention(nn.Module, AttentionModuleMixin):
    """Over `[R, L, C]`, with normalised queries and keys that are turned by their tokens' positions."""

    _default_processor_cls = Processor
    _available_processors = [Processor]  # noqa: RUF012
    _supports_qkv_fusion = False  # they are one product already
    is_cross_attention = False

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = nn.Parameter(torch.ones(head_dim))
        self.k_norm = nn.Parameter(torch.ones(head_dim))
        self.out = nn.Linear(width, width)
        self.processor: Any = Processor()

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, self.head_dim)).unbind(2)  # each [R, L, N, D]
        q, k = normed_rotated(q, self.q_norm, rotation), normed_rotated(k, self.k_norm, rotation)
        return self.out(attend(self.processor, q, k, v).flatten(2))  # [R, L, C]


class CrossAttention(nn.Module, AttentionModuleMixin):
    """From `[R, L, C]` to texts `[B, S, C]`; the output projection starts at zero."""

    _default_processor_cls = Processor
    _available_processors = [Processor]  # noqa: RUF012
    _supports_qkv_fusion = False
    is_cross_attention = True

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.q_norm = nn.Parameter(torch.ones(head_dim))
        self.k_norm = nn.Parameter(torch.ones(head_dim))
        self.out = zeroed(nn.Linear(width, width))
        self.processor: Any = Processor()

    def forward(self, x: Tensor, text: Tensor, attend: Attend) -> Tensor:
        q = normed_rotated(self.q(x).unflatten(-1, (-1, self.head_dim)), self.q_norm)  # [R, L, N, D]
        k, v = self.kv(text).unflatten(-1, (2, -1, self.head_dim)).unbind(2)  # each [B, S, N, D]
        return self.out(attend(self.processor, q, normed_rotated(k, self.k_norm), v).flatten(2))  # [R, L, C]


class Rotation(nn.Module):
    """Positions -> the angles that pairs of a head's channels are turned by: some by the frame, the others by the row
    and by the column, a third each, and what does not divide by three by the frame."""

    def __init__(self, head_dim: int, max_period: float = 10_000.0):
        super().__init__()
        third = head_dim // 6
        self.pairs = (head_dim // 2 - 2 * third, third, third)
        self.max_period = max_period

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """`[R, L, 3]` -> cosines and sines, each float32 `[R, L, 1, D/2]`."""
        angles = []
        for axis, pairs in enumerate(self.pairs):
            exponents = torch.arange(pairs, dtype=torch.float32, device=positions.device) / pairs
            angles.append(positions[..., axis, None].float() * self.max_period**-exponents)  # [R, L, pairs]
        whole = torch.cat(angles, dim=-1)[:, :, None]  # [R, L, 1, D/2]
        return whole.cos(), whole.sin()
