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
    def lengths(self) -> list[int]:
        """Tokens of each clip, in that order."""
        return [math.prod(grid.sizes) for grid, numbers in self for _ in numbers]

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
        parts = tokens.flatten(0, 1).split([math.prod(grid.sizes) * len(numbers) for grid, numbers in self])
        return [part.unflatten(0, (len(numbers), -1)) for part, numbers in zip(parts, self.clips, strict=True)]

    def ordered(self, values: Tensor) -> Tensor:
        """Something said of each clip, `[clips, ...]`, in the order they lie in the row."""
        return values[torch.tensor(self.order).to(values.device, non_blocking=True)]

    def tokens(self, layer: int) -> Attend:
        """Each clip as its own grid says."""
        return OwnClip(self, [grid.tokens(layer) for grid in self.grids])

    def words(self, mask: Tensor | None) -> Attend:
        """A clip's tokens see its own text: texts are in the order of the clips; the mask is bool `[clips, S]`."""
        return TextOfClip(self, mask)


@dataclass(frozen=True)
class OwnClip:
    """A token sees tokens of its own clip, as is said for each size."""

    row: Row
    ways: Sequence[Attend]

    def __call__(self, core: Core, q_1LND: Tensor, k_1LND: Tensor, v_1LND: Tensor) -> Tensor:
        dtype = _kernel_dtype(core, q_1LND)
        if dtype and all(way is everyone for way in self.ways):
            return _sequences(q_1LND[0], k_1LND[0], v_1LND[0], self.row.lengths, self.row.lengths, dtype)[None]
        sizes = zip(self.ways, *map(self.row.split, (q_1LND, k_1LND, v_1LND)), strict=True)
        return torch.cat([way(core, q, k, v).flatten(0, 1) for way, q, k, v in sizes])[None]


@dataclass(frozen=True)
class TextOfClip:
    """A token sees the text of its clip."""

    row: Row
    mask: Tensor | None  # bool [clips, S]

    @cached_property
    def _shown(self) -> tuple[Tensor, list[int]]:
        """Which tokens of the texts are seen, bool `[clips, S]`, and how many; at least one."""
        mask = self.mask
        assert mask is not None
        shown = mask | ~mask.any(1, keepdim=True)
        return shown, shown.sum(1).tolist()

    def __call__(self, core: Core, q_1LND: Tensor, k_BSND: Tensor, v_BSND: Tensor) -> Tensor:
        dtype = _kernel_dtype(core, q_1LND)
        if dtype and self.mask is not None:
            shown, keys = self._shown
            v_BSND = v_BSND * self.mask[:, :, None, None].to(v_BSND.dtype)  # a clip without text gets zeros
            return _sequences(q_1LND[0], k_BSND[shown], v_BSND[shown], self.row.lengths, keys, dtype)[None]
        sizes = [len(numbers) for numbers in self.row.clips]
        masks = [None] * len(sizes) if self.mask is None else self.mask.split(sizes)
        parts = zip(masks, self.row.split(q_1LND), k_BSND.split(sizes), v_BSND.split(sizes), strict=True)
        return torch.cat([OwnText(mask)(core, q, k, v).flatten(0, 1) for mask, q, k, v in parts])[None]


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
