"""Clips that are seen several times an epoch, such as ten new ones among a thousand that a model knows."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ..errors import DataError


def times_of(ids: Iterable[str], repeats: Mapping[str, int]) -> list[int]:
    """How often each clip is seen in an epoch.

    Args:
        ids: of the clips.
        repeats: pattern of ids, such as `videos/new-*` -> times, at least 1. The first one that fits counts.

    Raises:
        DataError: a pattern fits no clip.
    """
    ids = list(ids)
    for pattern in repeats:
        if not any(fnmatchcase(id, pattern) for id in ids):
            raise DataError(
                f"repeats names {pattern!r}, which fits none of the {len(ids)} clips. Patterns are of clips' names as "
                f"`data check` shows them, such as {ids[0]!r}; * stands for anything."
            )
    return [next((times for pattern, times in repeats.items() if fnmatchcase(id, pattern)), 1) for id in ids]


class Repeated(Dataset[dict[str, Any]]):
    """A dataset some of whose clips come several times an epoch.

    A clip that comes n times lives through n epochs in each one of the run, so that each time it has another window,
    another of its captions and other variations.

    Args:
        dataset: `TextVideoDataset` or another that is asked by (index, epoch).
        times: of each of its clips.
    """

    def __init__(self, dataset: Any, times: Sequence[int]):
        self.dataset, self.times = dataset, np.asarray(times)
        self.ends = self.times.cumsum()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def shape(self, index: int) -> tuple[int, int, int]:
        """(frames, height, width) of the item."""
        return self.dataset.shape(self._clip(index))

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        index = range(len(self))[index]
        clip = self._clip(index)
        times, turn = int(self.times[clip]), int(self.ends[clip]) - 1 - index
        return self.dataset[clip, epoch * times + turn]

    def _clip(self, index: int) -> int:
        return int(self.ends.searchsorted(index, side="right"))
