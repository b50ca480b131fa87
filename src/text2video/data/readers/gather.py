"""Clips as a reader finds them: several captions of one file come together, and what is not used is named."""

import os
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import DataError
from ..clips import Clip, LeftOut, Manifest, clean_caption, clip_id, relative


class Gather:
    """Clips as they are found: several captions of one file come together, bad ones are named."""

    def __init__(self, root: Path, layout: str):
        self.root, self.layout = root, layout
        self.clips: dict[str, Clip] = {}
        self.left_out: list[LeftOut] = []
        self.notes: list[str] = []

    def leave(self, id: str, reason: str) -> None:
        self.left_out.append(LeftOut(id, reason))

    def take(self, path: Path, value: Any, where: str, start: float | None = None, end: float | None = None) -> None:
        """Adds a caption, or a list of captions, to a file, or to a stretch of it in seconds."""
        id = clip_id(relative(path, self.root), start, end)
        known = self.clips[id].captions if id in self.clips else ()
        problems = [] if value != [] else ["no caption"]
        for caption in value if isinstance(value, list) else [value]:
            problem = wrong_with(caption)
            text = "" if problem else clean_caption(caption)
            if problem or text in known:
                problems.append(problem or f"the same caption twice ({text!r:.60})")
            else:
                known = (*known, text)
        for problem in problems:
            self.leave(id, f"{'one caption is not used: ' if known else ''}{problem} ({where})")
        if known:
            self.clips[id] = Clip(id, path, known, start, end)

    def take_row(self, path: Path, value: Any, where: str, row: dict[str, Any]) -> None:
        """`take`, with the stretch that the row's `start` and `end` name."""
        try:
            start, end = stretch(row)
        except (TypeError, ValueError, OverflowError):
            problem = f"from {row.get('start')!r} to {row.get('end')!r}, {where}"
            self.leave(clip_id(relative(path, self.root)), f"start and end are no stretch in seconds ({problem})")
        else:
            self.take(path, value, where, start, end)

    def manifest(self) -> Manifest:
        if not self.clips:
            raise DataError(no_clip(self.root, self.layout, self.left_out))
        return Manifest(self.root, self.layout, list(self.clips.values()), self.left_out, self.notes)


def no_clip(root: Path, layout: str, left_out: list[LeftOut]) -> str:
    """The message for a data set in which nothing can be used."""
    first = "; ".join(f"{id}: {reason}" for id, reason in left_out[:3]) or "it is empty"
    more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    return (
        f"{root}, read as {layout}, has no clip that can be used: {first}{more}. "
        "A clip needs a video file and a caption that is not empty."
    )


def stretch(row: dict[str, Any]) -> tuple[float | None, float | None]:
    """`start` and `end` of a row in seconds. Raises ValueError or TypeError when they are no stretch of time."""
    values = [row.get(name) for name in ("start", "end")]
    start, end = (None if value in (None, "") or value != value else float(value) for value in values)
    if not 0 <= (start or 0) < (float("inf") if end is None else end):
        raise ValueError
    return start, end


def wrong_with(caption: Any) -> str | None:
    """Why a value is no caption, or None."""
    if caption is None or caption != caption:  # null, or the NaN that pandas writes for it
        return "no caption"
    if not isinstance(caption, str):
        return f"the caption is not text ({caption!r:.60})"
    if not caption.strip():
        return "empty caption"
    try:
        caption.encode()
    except UnicodeEncodeError:
        return "the caption holds half a character (a lone surrogate)"
    return None


def scan(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """The files below a folder with these suffixes in any case, by posix path below it (NFC), sorted.

    Hidden files, such as the `._a.mp4` that macOS puts into archives, are not data. A link to a file is followed: what
    stands in the folder was put there; only lists are not trusted to lead out.
    """
    return {name: path for name, path in scan_all(folder).items() if path.suffix.lower() in suffixes}


def scan_all(folder: Path) -> dict[str, Path]:
    """The same of files with any suffix."""
    found: dict[str, Path] = {}
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        for name in names:
            path = Path(at, name)
            if not name.startswith(".") and path.is_file():
                found[unicodedata.normalize("NFC", path.relative_to(folder).as_posix())] = path
    return dict(sorted(found.items()))


def stem(name: str) -> str:
    """`sub/a.mp4` -> `sub/a`."""
    return str(PurePosixPath(name).with_suffix(""))
