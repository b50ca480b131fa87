"""Clips as columns of strings and numbers, for the worker processes of a loader.

A million `Clip` objects take 0.7 GB and half a minute to reach a new process, and one that is forked copies them bit by
bit as it looks at them. Their columns do neither.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import pyarrow as pa

from .clips import Clip


class ClipColumns(Sequence[Clip]):
    """A sequence of clips that holds no objects: each is made when it is asked for, with what training reads of it."""

    def __init__(self, clips: Sequence[Clip]):
        text = pa.large_string()
        self._columns = (
            pa.array([clip.id for clip in clips], text),
            pa.array([str(clip.path) for clip in clips], text),
            pa.array([clip.captions for clip in clips], pa.large_list(text)),
            pa.array([clip.start for clip in clips], pa.float64()),
            pa.array([clip.end for clip in clips], pa.float64()),
        )

    def __len__(self) -> int:
        return len(self._columns[0])

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...
    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        id, path, captions, start, end = (column[number].as_py() for column in self._columns)
        return Clip(id, Path(path), tuple(captions), start, end)
