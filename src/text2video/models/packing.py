"""Clips of any sizes and lengths as one row of tokens (Dehghani et al. 2023, "Patch n' Pack", arXiv:2307.06304).

Layers that work on each token by itself see one long row, without padding. A clip's tokens see their own clip and its
own text only, and have their own timestep, so that a row gives what its clips one by one would give.

Clips of one size lie side by side, and attend together as a batch. On a CPU this is four times as fast as one product
with a block-diagonal mask (benchmarks/packing.py); on a GPU in half precision one kernel for sequences of any lengths
does all of them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from .layout import Attend, Core, Grid, OwnText, everyone


@dataclass(frozen=True)
class Row:
    """The layout of several clips in one row; a `Layout`.

    Args:
        grids: the different sizes.
        clips: for each size, which of the clips have it.
    """

    grids: Sequence[Grid]
    clips: Sequence[Sequence[int]]

    @classmethod
    def of(cls, grids: Sequence[Grid]) -> "Row":
        """From the grid of each clip."""
        same: dict[tuple[int, int, int], list[int]] = {}
        for number, grid in enumerate(grids):
            same.setdefault(grid.sizes, []).append(number)
        return cls([grids[numbers[0]] for numbers in same.values()], list(same.values()))

    @property
    def order(self) -> list[int]:
        """The clips in the order they lie in the row."""
        return [number for numbers in self.clips for number in numbers]

    @property
    def each(self) -> list[int]:
        """Tokens of each clip, in that order."""
        return [math.prod(grid.sizes) for grid, numbers in self for _ in numbers]

    @property
    def lengths(self) -> list[int]:
        """Tokens of all clips of each size."""
        return [math.prod(grid.sizes) * len(numbers) for grid, numbers in self]

    def __iter__(self) -> Iterator[tuple[Grid, Sequence[int]]]:
        return zip(self.grids, self.clips, strict=True)

    @property
    def positions(self) -> Tensor:
        """`[1, L, 3]`."""
        return torch.cat([grid.positions.repeat(1, len(numbers), 1) for grid, numbers in self], dim=1)

    def fold(self, sample: Sequence[Tensor]) -> Tensor:
        """Clips `[C, T, H, W]` -> `[1, L, P]`."""
        parts = [grid.fold(torch.stack([sample[n] for n in numbers])).flatten(0, 1) for grid, numbers in self]
        return torch.cat(parts)[None]

    def unfold(self, tokens: Tensor) -> list[Tensor]:
        """`[1, L, P]` -> clips `[C, T, H, W]`."""
        found: dict[int, Tensor] = {}
        for (grid, numbers), part in zip(self, self.split(tokens), strict=True):
            found.update(zip(numbers, grid.unfold(part), strict=True))
        return [found[number] for number in range(len(found))]

    def split(self, tokens: Tensor) -> list[Tensor]:
        """`[1, L, ...]` -> `[clips of a size, l, ...]` for each size."""
        # flatten and view: taking the first of one row would fill and copy a whole gradient on the way back
        parts = tokens.flatten(0, 1).split(self.lengths)
        return [part.unflatten(0, (len(numbers), -1)) for part, numbers in zip(parts, self.clips, strict=True)]

    def rows(self, values: Tensor) -> Tensor:
        """Something said of each clip, `[clips, C]`, for groups of tokens that none of them shares, `[G, C]`."""
        return values[self._groups.to(values.device, non_blocking=True)]

    @cached_property
    def _groups(self) -> Tensor:
        """The clip of each group."""
        counts = torch.tensor(self.each) // math.gcd(*self.each)
        return torch.tensor(self.order).repeat_interleave(counts)

    def tokens(self, layer: int) -> Attend:
        """Each clip as its own grid says."""
        return OwnClip(self, [grid.tokens(layer) for grid in self.grids])

    def words(self, mask: Tensor | None) -> Attend:
        """A clip's tokens see the text of the same number; the mask is bool `[clips, S]`."""
        return TextOfClip(self, mask)


@dataclass(frozen=True)
class OwnClip:
    """A token sees tokens of its own clip, as is said for each size."""

    row: Row
    ways: Sequence[Attend]

    def __call__(self, core: Core, q_1LND: Tensor, k_1LND: Tensor, v_1LND: Tensor) -> Tensor:
        dtype = _kernel_dtype(core, q_1LND)
        if dtype and all(way is everyone for way in self.ways):
            return _sequences(q_1LND[0], k_1LND[0], v_1LND[0], self.row.each, self.row.each, dtype)[None]
        sizes = zip(self.ways, *map(self.row.split, (q_1LND, k_1LND, v_1LND)), strict=True)
        return torch.cat([way(core, q, k, v).flatten(0, 1) for way, q, k, v in sizes])[None]


@dataclass(frozen=True)
class TextOfClip:
    """A token sees the text of its clip."""

    row: Row
    mask: Tensor | None  # bool [clips, S]

    @cached_property
    def _shown(self) -> tuple[Tensor, list[int]]:
        """In the row's order, which tokens of the texts are seen, bool `[clips, S]`, and how many; at least one."""
        mask = self.mask
        assert mask is not None
        shown = (mask | ~mask.any(1, keepdim=True))[self.row.order]
        return shown, shown.sum(1).tolist()

    def __call__(self, core: Core, q_1LND: Tensor, k_BSND: Tensor, v_BSND: Tensor) -> Tensor:
        dtype = _kernel_dtype(core, q_1LND)
        if dtype and self.mask is not None:
            shown, keys = self._shown
            v_BSND = v_BSND * self.mask[:, :, None, None].to(v_BSND.dtype)  # a clip without text gets zeros
            k_SND, v_SND = (x[self.row.order][shown] for x in (k_BSND, v_BSND))
            return _sequences(q_1LND[0], k_SND, v_SND, self.row.each, keys, dtype)[None]
        seen = []
        for numbers, q in zip(self.row.clips, self.row.split(q_1LND), strict=True):
            own = list(numbers)
            mask = None if self.mask is None else self.mask[own]
            seen.append(OwnText(mask)(core, q, k_BSND[own], v_BSND[own]).flatten(0, 1))
        return torch.cat(seen)[None]


def _kernel_dtype(core: Core, q: Tensor) -> torch.dtype | None:
    """What the kernel for sequences of any lengths computes in here; None where it cannot, or another is asked for."""
    named = (getattr(core, name, None) for name in ("_attention_backend", "_parallel_config"))
    if not q.is_cuda or any(value is not None for value in named):
        return None
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else q.dtype
    fits = q.shape[-1] % 8 == 0 and torch.cuda.get_device_capability(q.device) >= (8, 0)
    return dtype if fits and dtype in (torch.bfloat16, torch.float16) else None


def _sequences(
    q_LND: Tensor, k_SND: Tensor, v_SND: Tensor, queries: Sequence[int], keys: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """`[L, N, D]`: sequence after sequence, so many queries of each see so many keys of the same."""
    ends = [torch.tensor([0, *accumulate(n)], dtype=torch.int32, device=q_LND.device) for n in (queries, keys)]
    q, k, v = (x.to(dtype).contiguous() for x in (q_LND, k_SND, v_SND))
    found: Any = varlen_attn(q, k, v, ends[0], ends[1], max(queries), max(keys))  # the output alone, if not asked more
    return found.to(q_LND.dtype)
