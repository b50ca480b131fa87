"""Causal attention one block of frames at a time: the keys and values of earlier blocks are kept, not computed anew.

A block of frames is denoised in several passes. In each of them its tokens see themselves and what is kept of the
blocks before it. A last pass with the clean block, at timestep 0, leaves its own keys and values for those to come, as
in CausVid (Yin et al. 2024, arXiv:2412.07772) and Self Forcing (Huang et al. 2025, arXiv:2506.08009). It gives what one
causal pass over all blocks gives, because no block depends on a later one.

Positions count on from the first frame. Rotary attention depends on their differences only, and those stay below the
frames of the window and a block together, so a window that makes these as long as the clips of training asks for no
angle that was not trained. Counted anew in each window, every key would have to be turned again at every block.
"""

from dataclasses import dataclass, field

from torch import Tensor

from .layout import Attend, Core, Grid


class KeyValueCache:
    """Keys and values of the newest finished blocks, of every layer. Its size does not change after the first pass.

    A block's own keys lie in the same buffer, over those of the block that has just left the window. Attention does not
    ask for the order of keys, so nothing is moved.

    Args:
        window: finished blocks that a block sees.
        rows: most rows of a pass; with fewer, they are the last ones, as of guidance those with the prompt.
    """

    def __init__(self, window: int, rows: int = 1):
        self.slots, self.rows = window + 1, rows
        self.finished = 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def joined(self, layer: int, k_RLND: Tensor, v_RLND: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the present block, and with them those of the blocks it sees: `[R, S, N, D]`."""
        length, first_row = k_RLND.shape[1], self.rows - len(k_RLND)
        if layer not in self.layers:
            room = (self.rows, self.slots * length, *k_RLND.shape[2:])
            self.layers[layer] = (k_RLND.new_empty(room), v_RLND.new_empty(room))
        own = self.finished % self.slots * length
        seen = min(self.finished + 1, self.slots) * length
        keys, values = (buffer[first_row:] for buffer in self.layers[layer])
        keys[:, own : own + length], values[:, own : own + length] = k_RLND, v_RLND
        return keys[:, :seen], values[:, :seen]

    def finish(self) -> None:
        """What the last pass left is the block's, and the next one begins."""
        self.finished += 1


@dataclass(frozen=True)
class Continued(Grid):
    """The next block of videos whose finished blocks are in a cache; every block has the same size."""

    cache: KeyValueCache = field(kw_only=True)

    @classmethod
    def of(cls, grid: Grid, cache: KeyValueCache) -> "Continued":
        """The block that `grid` is the layout of, behind those that are finished."""
        first = cache.finished * grid.sizes[0]
        return cls(grid.sizes, grid.patch, grid.time_attention, grid.block, first, grid.device, cache=cache)

    def tokens(self, layer: int) -> Attend:
        """A token sees its own block and those in the cache."""
        return AfterPast(self.cache, layer)


@dataclass(frozen=True)
class AfterPast:
    """See `Continued`."""

    cache: "KeyValueCache | TokenCache"
    layer: int

    def __call__(self, core: Core, q_RLND: Tensor, k_RLND: Tensor, v_RLND: Tensor) -> Tensor:
        return core(q_RLND, *self.cache.joined(self.layer, k_RLND, v_RLND), None)


class TokenCache:
    """Keys and values of tokens that come a few at a time, of every layer: those of the newest finished blocks, and of
    the block that is being made.

    Args:
        window: finished blocks that a token sees.
        block: tokens of a block.
        rows: of a pass.
    """

    def __init__(self, window: int, block: int, rows: int = 1):
        self.window, self.block, self.rows = window, block, rows
        self.filled = 0  # tokens
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def joined(self, layer: int, k_RLND: Tensor, v_RLND: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the present tokens, behind those of all that they see: `[R, S, N, D]`."""
        if layer not in self.layers:
            room = (self.rows, (self.window + 1) * self.block, *k_RLND.shape[2:])
            self.layers[layer] = (k_RLND.new_empty(room), v_RLND.new_empty(room))
        keys, values = self.layers[layer]
        seen = self.filled + k_RLND.shape[1]
        keys[:, self.filled : seen], values[:, self.filled : seen] = k_RLND, v_RLND
        return keys[:, :seen], values[:, :seen]

    def advance(self, tokens: int) -> None:
        """So many tokens have gone through every layer. A block that has left the window makes room."""
        self.filled += tokens
        if self.filled == (self.window + 1) * self.block:
            self.filled -= self.block
            for buffer in (buffer for pair in self.layers.values() for buffer in pair):
                buffer[:, : self.filled] = buffer[:, self.block :].clone()
