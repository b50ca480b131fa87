"""How videos lie as rows of tokens, and who sees whom among them.

A transformer's blocks know neither frames nor clips: they work on rows of tokens `[R, L, C]`, and ask a `Layout` what
is behind them. `Grid` is the usual one: a batch of videos of one size, a row each. Packed clips of different sizes and
the frames of a stream are other layouts for the same blocks.

Shape suffixes as in `attention`; `R` rows, `L` tokens of a row.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import ModelError
from .attention import Core
from .layers import depth_to_space, space_to_depth

TIME_ATTENTION = ("factorised", "full", "causal")

Attend = Callable[[Core, Tensor, Tensor, Tensor], Tensor]
"""(core, q `[R, L, N, D]`, k and v of its tokens or of the texts) -> `[R, L, N, D]`: who sees whom, by calls of the
core. Queries and keys are normalised and rotated already."""


class Layout(Protocol):
    """What a transformer has to know of the tokens in a batch."""

    @property
    def positions(self) -> Tensor:
        """(frame, row, column) of each token, `[1 or R, L, 3]`; they need not be whole or begin at 0."""
        ...

    def fold(self, sample: Any) -> Tensor:
        """Videos -> the numbers of each token's patch, `[R, L, P]`."""
        ...

    def unfold(self, tokens: Tensor) -> Any:
        """The inverse: `[R, L, P]` -> videos."""
        ...

    @property
    def lengths(self) -> Sequence[int] | None:
        """Of the R * L tokens in order, how many the first timestep is said of, how many the second one, and so on;
        None: as many for each."""
        ...

    def ordered(self, values: Tensor) -> Tensor:
        """Timesteps, texts or what else is said of each clip, as they were given to the model `[B, ...]`, in the order
        of the tokens."""
        ...

    def tokens(self, layer: int) -> Attend:
        """Who sees whom in a layer's self-attention."""
        ...

    def words(self, mask: Tensor | None) -> Attend:
        """Which of the texts, in order, a token sees. The mask is bool `[texts, S]`, true where there is text."""
        ...


@dataclass(frozen=True)
class Grid:
    """Videos of one size, each a row, its tokens in order of frames, then rows, then columns.

    Args:
        sizes: tokens along frames, height and width.
        patch: frames, height and width of a token.
        time_attention: "full": every token sees all others. "factorised": it sees its own frame in even layers, and
            its own place in all frames in odd ones. "causal": it sees its own block of frames and all before it.
        block: frames of tokens in a causal block; the last may have fewer.
        first_frame: position of the first frame, where these are part of a longer video.
        device: of the tokens.
    """

    sizes: tuple[int, int, int]
    patch: tuple[int, int, int]
    time_attention: str = "full"
    block: int = 1
    first_frame: int = 0
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if self.time_attention not in TIME_ATTENTION:
            raise ModelError(f"time_attention is {self.time_attention!r}; choose one of {', '.join(TIME_ATTENTION)}.")

    @property
    def positions(self) -> Tensor:
        """`[1, L, 3]`."""
        axes = [torch.arange(size, device=self.device) for size in self.sizes]
        axes[0] = axes[0] + self.first_frame
        return torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1).flatten(0, 2)[None]

    def fold(self, sample: Tensor) -> Tensor:
        """`[B, C, T, H, W]` -> `[B, L, P]`."""
        return space_to_depth(sample, self.patch).permute(0, 2, 3, 4, 1).flatten(1, 3)

    def unfold(self, tokens: Tensor) -> Tensor:
        """`[B, L, P]` -> `[B, C, T, H, W]`."""
        return depth_to_space(tokens.unflatten(1, self.sizes).permute(0, 4, 1, 2, 3), self.patch).contiguous()

    @property
    def lengths(self) -> None:
        """Videos are of one size, and so are their frames."""
        return None

    def ordered(self, values: Tensor) -> Tensor:
        """They are in the order of the rows."""
        return values

    def tokens(self, layer: int) -> Attend:
        """See `time_attention`."""
        if self.time_attention == "factorised":
            return SamePlace(self.sizes) if layer % 2 else SameFrame(self.sizes)
        if self.time_attention == "causal":
            return Causal(math.prod(self.sizes[1:]) * self.block)
        return everyone

    def words(self, mask: Tensor | None) -> Attend:
        """A video's tokens see its own text."""
        return OwnText(mask)


def everyone(core: Core, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every token sees every token of its row."""
    return core(q, k, v, None)


@dataclass(frozen=True)
class SameFrame:
    """A token sees the tokens of its own frame; `sizes` as in `Grid`."""

    sizes: tuple[int, int, int]

    def __call__(self, core: Core, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        frames = [x.reshape(-1, math.prod(self.sizes[1:]), *x.shape[2:]) for x in (q_BLND, k_BLND, v_BLND)]
        return core(frames[0], frames[1], frames[2], None).reshape(q_BLND.shape)


@dataclass(frozen=True)
class SamePlace:
    """A token sees the tokens at its own place in all frames; `sizes` as in `Grid`."""

    sizes: tuple[int, int, int]

    def __call__(self, core: Core, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        q, k, v = (x.unflatten(1, (self.sizes[0], -1)).transpose(1, 2).flatten(0, 1) for x in (q_BLND, k_BLND, v_BLND))
        places = core(q, k, v, None)  # [B*h*w, t, N, D]
        return places.unflatten(0, (len(q_BLND), -1)).transpose(1, 2).reshape(q_BLND.shape)


@dataclass(frozen=True)
class Causal:
    """A token sees its own block of frames and all before it; `length` is a block's number of tokens.

    Block after block sees a growing part of the keys: half the products of a mask, and every kernel can do it.
    """

    length: int

    def __call__(self, core: Core, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        ends = range(self.length, q_BLND.shape[1] + self.length, self.length)
        parts = [core(q_BLND[:, end - self.length : end], k_BLND[:, :end], v_BLND[:, :end], None) for end in ends]
        return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class OwnText:
    """The tokens of row b see text b."""

    mask: Tensor | None  # bool [B, S]

    def __call__(self, core: Core, q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor) -> Tensor:
        return core(q_BLND, k_BSND, v_BSND, self.mask)
