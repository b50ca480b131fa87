"""Where the conditions of clips lie: a folder with a file for each, a column of the table, or the clips themselves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch

from ..errors import DataError
from ..video import View
from .clips import Clip, LeftOut, clip_id, relative
from .locate import Locator
from .readers.columns import VIDEO_COLUMNS, find_column
from .readers.gather import scan_all, stretch
from .tables import read_table

Media = Literal["pictures", "sound", "value", "other"]
Read = Callable[[Any, View], torch.Tensor]
"""(file, value, or None for the clip itself; what is seen of the clip) -> a tensor without a batch axis."""


@dataclass(frozen=True)
class Wanted:
    """A condition that a run wants.

    Args:
        read: as its kind does.
        source: a folder below the data root, or a column of the data's table.
        media: what `read` reads. A column names files of it, below the data root, and holds a "value" itself.
        of_clip: whether a clip's own file has it, where there is neither folder nor column.
    """

    read: Read
    source: str
    media: Media = "other"
    of_clip: bool = False


@dataclass(frozen=True)
class Source:
    """A condition that was found: clip id -> file or value; no values: the clip itself has it."""

    read: Read
    media: Media = "other"
    values: Mapping[str, Any] | None = None

    def of(self, id: str, view: View) -> torch.Tensor:
        """What it says of a clip."""
        return self.read(None if self.values is None else self.values[id], view)


def find(
    clips: Sequence[Clip],
    root: Path,
    wanted: Mapping[str, Wanted],
    table: Path | None = None,
    video_column: str | None = None,
) -> tuple[dict[str, Source], list[LeftOut]]:
    """The conditions of clips, and the clips that lack one.

    A file in a folder has the name of its clip, below `videos/` or the root, and any suffix; stretches of one file
    share it.

    Args:
        root: the data root.
        table: that the clips were read from, and its `video_column`, if it was a table.

    Raises:
        DataError: a source is neither a folder nor a column, or fits several files to a clip.
    """
    found: dict[str, Source] = {}
    left_out: dict[str, LeftOut] = {}
    for name, want in wanted.items():
        if (root / want.source).is_dir() and (root / want.source).resolve().is_relative_to(root.resolve()):
            values = _in_folder(clips, root / want.source)
        elif table is not None and want.source in (columns := read_table(table)).columns:
            values = _in_column(columns.rows, root, find_column(columns.columns, video_column, VIDEO_COLUMNS), want)
        elif want.of_clip:
            found[name] = Source(want.read, want.media)
            continue
        else:
            where = f" and {table.name} no such column" if table else ""
            raise DataError(
                f"The condition {name} is asked for, and {root} has no folder {want.source!r}{where}. Put a file for "
                f"each clip there, or say where they are: conditions: {{{name}: {{source: ...}}}}."
            )
        found[name] = Source(want.read, want.media, values)
        for clip in clips:
            value = values.get(clip.id)
            if value is None or isinstance(value, LeftOut):
                reason = value.reason if value else f"nothing in {want.source}"
                left_out.setdefault(clip.id, LeftOut(clip.id, f"it lacks the condition {name}: {reason}"))
    return found, list(left_out.values())


def _in_folder(clips: Sequence[Clip], folder: Path) -> dict[str, Any]:
    by_name: dict[str, list[Path]] = {}
    for name, path in scan_all(folder).items():
        for key in {name, str(PurePosixPath(name).with_suffix(""))}:
            by_name.setdefault(key, []).append(path)
    values: dict[str, Any] = {}
    for clip in clips:
        whole = PurePosixPath(clip.source.removeprefix("videos/"))
        # `a.mp4.png` goes before `a.png`: so a.mp4 and a.mov can have one each
        fitting = by_name.get(str(whole)) or by_name.get(str(whole.with_suffix(""))) or []
        if len(fitting) > 1:
            names = ", ".join(path.name for path in fitting)
            raise DataError(f"{folder} has several files for {clip.id}: {names}. Leave one of them there.")
        if fitting:
            values[clip.id] = fitting[0]
    return values


def _in_column(rows: Any, root: Path, video_column: str | None, want: Wanted) -> dict[str, Any]:
    locate, values = Locator(root, (".", "videos")), {}
    for _, row in rows:
        if isinstance(row, str) or video_column is None or not isinstance(row.get(video_column), str):
            continue
        path, value = locate(row[video_column]), row.get(want.source)
        if isinstance(path, str) or value in (None, ""):
            continue
        try:
            id = clip_id(relative(path, root), *stretch(row))
        except (TypeError, ValueError, OverflowError):
            continue  # the reader of the table has said so
        if want.media != "value":
            place = locate(str(value))
            value = LeftOut(id, place) if isinstance(place, str) else place
        values[id] = value
    return values
