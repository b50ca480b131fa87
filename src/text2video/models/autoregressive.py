"""An autoregressive transformer over a video's tokens: each follows from those before it and the text, as in VideoGPT
(Yan et al. 2021, arXiv:2104.10157).

Tokens come in order of frames, rows and columns. The blocks are those of `VideoTransformer`; what the whole caption
says modulates them, in place of a timestep. A place is told which token was at the place before it, and where it is
itself: one pass gives the distributions of all places, and with a cache the next place is a pass over one token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import AttentionMixin
from torch import Tensor, nn

from ..errors import ModelError, UsageError
from .attention import Core, attention
from .fused import modulated
from .kv_cache import AfterPast, TokenCache
from .layers import mean_token, sinusoid, zeroed
from .layout import Attend, Grid
from .transformer import PLACE, Context, Rotation, TransformerBlock


class AutoregressiveTransformer(ModelMixin, ConfigMixin, AttentionMixin):
    """Logits `[B, t, h, w, vocab_size]` of tokens `[B, t, h, w]`, of each from those before it.

    Any sizes work, also those it was never trained on.

    Args:
        vocab_size: number of different tokens.
        cross_attention_dim: width of the text embedding.
        num_layers, num_attention_heads, attention_head_dim: depth, and the two factors of the width; see `SIZES`.
        text_interval: every so many blocks, from the first on, one looks at the text.
        mlp_ratio: inner width of the feed-forward, in widths.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerBlock"]  # noqa: RUF012 - the name and type that diffusers reads
    _repeated_blocks = ["TransformerBlock"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["norm", "table", "embedding"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        vocab_size: int,
        cross_attention_dim: int = 512,
        num_layers: int = 12,
        num_attention_heads: int = 6,
        attention_head_dim: int = 64,
        text_interval: int = 2,
        mlp_ratio: float = 4.0,
    ):
        super().__init__()
        if attention_head_dim % 2 or attention_head_dim < 6:
            raise ModelError(
                f"attention_head_dim is {attention_head_dim}; three axes share its pairs: give an even number from 6."
            )
        width = num_attention_heads * attention_head_dim
        self.gradient_checkpointing = False
        self.token_embedding = nn.Embedding(vocab_size + 1, width)  # the last stands before the first token
        self.place_embedding = nn.Linear(2 * PLACE, width, bias=False)
        self.text_embedding = nn.Linear(cross_attention_dim, width)
        self.words = nn.Sequential(nn.Linear(cross_attention_dim, width), nn.GELU("tanh"), nn.Linear(width, width))
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.rope = Rotation(attention_head_dim)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, attention_head_dim, int(width * mlp_ratio), layer % text_interval == 0)
            for layer in range(num_layers)
        )
        self.table = nn.Parameter(torch.zeros(2 * width))
        self.leave = zeroed(nn.Linear(width, vocab_size))

    @property
    def vocab_size(self) -> int:
        """How many different tokens there are."""
        return self.leave.out_features

    def forward(
        self,
        tokens: Tensor,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """The logits `[B, t, h, w, vocab_size]` of all places, each told the tokens before it.

        Args:
            tokens: `[B, t, h, w]`.
            encoder_hidden_states: the text `[B, L, cross_attention_dim]`; without it no text is seen.
            encoder_attention_mask: bool `[B, L]`, true where there is text.
        """
        before = torch.cat([self.start(len(tokens)), tokens.flatten(1)[:, :-1]], dim=1)  # [B, thw]
        t, h, w = tokens.shape[1:]
        layout = InOrder((t, h, w), (1, 1, 1), device=tokens.device)
        logits = self._logits(before, layout, self.read(encoder_hidden_states, encoder_attention_mask))
        return logits.unflatten(1, (t, h, w))

    def start(self, rows: int) -> Tensor:
        """What stands before the first token, `[rows, 1]`."""
        return torch.full((rows, 1), self.vocab_size, device=self.device)

    def read(self, text: Tensor | None, mask: Tensor | None = None) -> "Reading":
        """What blocks are told of the text, the same for all tokens; arguments as of `forward`."""
        width = self.table.numel() // 2
        if text is None:
            whole, words = torch.zeros(1, width, device=self.device, dtype=self.dtype), None
        else:
            text, mask = text.to(self.dtype), None if mask is None else mask.bool()
            whole, words = self.text_embedding(mean_token(text, mask)), self.words(text)
        embedding = F.silu(whole)  # [B, C]
        return Reading(embedding, self.modulation(embedding), words, mask)

    def next(
        self, token: Tensor, frame: int, place: int, sizes: tuple[int, int], text: "Reading", cache: TokenCache
    ) -> Tensor:
        """The logits `[B, vocab_size]` of one place, all places before it being in the cache.

        Args:
            token: `[B, 1]`, of the place before it; see `start`.
            frame, place: which it is: of the video's, and of the frame's tokens.
            sizes: (h, w), tokens of a frame.
            text: see `read`.
        """
        layout = Next((1, *sizes), (1, 1, 1), first_frame=frame, device=token.device, place=place, cache=cache)
        logits = self._logits(token, layout, text)
        cache.advance(1)
        return logits[:, 0]

    def _logits(self, before: Tensor, layout: Grid, text: "Reading") -> Tensor:
        """`[B, L]` -> `[B, L, vocab_size]`."""
        positions = layout.positions
        places = self.place_embedding(sinusoid(positions[..., 1:], PLACE).flatten(-2).to(self.dtype))  # [1, L, C]
        x = self.token_embedding(before) + places  # [B, L, C]
        rows = len(before)
        told = text.modulation.expand(rows, -1)
        context = Context(told, layout.lengths, self.rope(positions), text.words, layout.words(text.mask))
        for layer, block in enumerate(self.blocks.children()):
            x = self._run(block, x, context, layout.tokens(layer))
        shift, scale = (self.table + text.embedding.repeat(1, 2)).expand(rows, -1).chunk(2, dim=1)
        return self.leave(modulated(x, shift, scale))

    def _run(self, block: nn.Module, *inputs: Any) -> Tensor:
        if self._gradient_checkpointing_func and self.gradient_checkpointing and torch.is_grad_enabled():
            checkpointed: Any = self._gradient_checkpointing_func
            return checkpointed(block, *inputs)
        return block(*inputs)


@dataclass(frozen=True)
class Reading:
    """A batch of texts, as the blocks are told of them."""

    embedding: Tensor  # [B, C], or [1, C] where there is no text
    modulation: Tensor  # [B, 6C]
    words: Tensor | None  # [B, S, C]
    mask: Tensor | None  # bool [B, S]


@dataclass(frozen=True)
class InOrder(Grid):
    """Tokens in order of frames, rows and columns; each sees itself and those before it."""

    def tokens(self, layer: int) -> Attend:
        """The same in every layer."""
        return in_order


def in_order(core: Core, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
    """A token sees itself and those before it. A core knows masks of keys only, so our own attention does this."""
    return attention(q_BLND, k_BLND, v_BLND, causal=True)


@dataclass(frozen=True)
class Next(Grid):
    """One place of a frame, behind all those in a cache."""

    place: int = field(kw_only=True)
    cache: TokenCache = field(kw_only=True)

    @property
    def positions(self) -> Tensor:
        """`[1, 1, 3]`."""
        row, column = divmod(self.place, self.sizes[2])
        return torch.tensor([[[self.first_frame, row, column]]], device=self.device)

    def tokens(self, layer: int) -> Attend:
        """The token sees itself and those in the cache."""
        return AfterPast(self.cache, layer)


def draw(
    logits: Tensor,
    generators: Sequence[torch.Generator],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """A token `[B, 1]` of each row of logits `[B, vocab_size]`, each by a generator of its own, on the CPU.

    Args:
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: only so many of the likeliest are drawn from.
        top_p: only the likeliest that make up this probability together (nucleus sampling: Holtzman et al. 2019,
            arXiv:1904.09751).
    """
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    logits, order = (logits.float() / temperature).sort(dim=-1, descending=True, stable=True)
    chances = logits.softmax(-1)
    if top_p is not None:
        chances = chances * (chances.cumsum(-1) - chances < top_p)  # the first one always stays
    if top_k is not None:
        chances = chances[:, :top_k]
    sums = chances.cpu().double().cumsum(-1)
    drawn = torch.stack([torch.rand(1, generator=source, dtype=torch.float64) for source in generators])  # [B, 1]
    rank = torch.searchsorted(sums, drawn * sums[:, -1:], right=True).clamp(max=sums.shape[1] - 1)
    return order.gather(1, rank.to(order.device))


def check_drawing(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Whether tokens can be drawn so.

    Raises:
        UsageError: a value is outside of its range.
    """
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise UsageError(f"temperature is {temperature:g}. Give 0, which takes the likeliest token, or more.")
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k is {top_k}. Give how many of the likeliest tokens are drawn from: 1 or more.")
    if top_p is not None and not 0 < top_p <= 1:
        raise UsageError(f"top_p is {top_p:g}. Give a probability above 0 and up to 1.")
