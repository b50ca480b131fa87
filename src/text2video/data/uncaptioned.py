"""Reads a data set for a model that is to write its captions: clips that have none are clips, too."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError
from ..video import PICTURES
from .clips import VIDEOS, Clip, Manifest, clip_id
from .layouts import read_layout
from .locate import Locator
from .readers.gather import scan
from .tables import TABLE_SUFFIXES

_STRETCH = re.compile(r"(.+)#(\d*\.?\d*)-(\d*\.?\d*)")


def read_clips(
    data_dir: str | Path | None, *, layout: str | None = None, out: Path | None = None, **source: Any
) -> Manifest:
    """As `read_layout`, and clips that only lack a caption are among the clips, with none.

    Args:
        data_dir: as of `read_layout`; or a folder of videos and pictures alone.
        layout: also `videos`: every file of the folder, whatever captions stand there.
        out: a manifest that is to be written, which is no part of the data.
        source: the other arguments of `read_layout`.
    """
    _not_read(out, data_dir, source)
    folder = Path(data_dir) if data_dir is not None and Path(data_dir).is_dir() else None
    if layout == "videos":
        if folder is None:
            raise UsageError(f"The layout videos is a folder of videos, and {data_dir} is none.")
        return _only_videos(folder)
    if folder and layout is None and not any(source.values()) and not _has_lists(folder, out):
        return _only_videos(folder)
    try:
        manifest = read_layout(data_dir, layout=layout, **source)
    except DataError as error:
        way_out = " To caption every video of the folder, whatever else is there, give layout videos." if folder else ""
        raise DataError(f"{error}{way_out}") from error
    known, locate = {clip.id for clip in manifest.clips}, Locator(manifest.root)
    for left in manifest.left_out:
        if left.lacks_caption and left.id not in known and (clip := _without_caption(locate, left.id)):
            known.add(clip.id)
            manifest.clips.append(clip)
    left_out = [left for left in manifest.left_out if not (left.lacks_caption and left.id in known)]
    return replace(manifest, left_out=left_out)


def read_captioned(data_dir: str | Path | None, *, out: Path | None = None, **source: Any) -> Manifest:
    """As `read_layout`; `out`, a manifest that is to be written, cannot be what is read."""
    _not_read(out, data_dir, source)
    return read_layout(data_dir, **source)


def _not_read(out: Path | None, data_dir: str | Path | None, source: Mapping[str, Any]) -> None:
    named = (data_dir, *(value for name, value in source.items() if name.endswith("_file")))
    if out and any(value is not None and Path(value).resolve() == out.resolve() for value in named):
        raise DataError(f"{out} is what is read, and would be written over. Give another name to write to.")


def _has_lists(folder: Path, out: Path | None) -> bool:
    lists = scan(folder, TABLE_SUFFIXES | {".txt"}).values()
    return any(out is None or path.resolve() != out.resolve() for path in lists)


def _only_videos(folder: Path) -> Manifest:
    root = folder.absolute()
    clips = [Clip(clip_id(name), path, ()) for name, path in scan(root, VIDEOS | PICTURES).items()]
    if not clips:
        raise DataError(f"{folder} holds no video. Give a folder with videos, or a data set.")
    return Manifest(root, "videos", clips)


def _without_caption(locate: Locator, id: str) -> Clip | None:
    path = locate(id)
    if isinstance(path, Path):
        return Clip(id, path, ())
    if found := _STRETCH.fullmatch(id):
        path = locate(found[1])
        if isinstance(path, Path):
            start, end = (float(part) if part else None for part in found.groups()[1:])
            return Clip(id, path, (), start, end)
    return None
