"""Clips and the manifest that lists them: what a data set is, whatever way it lies on disk.

A clip is one captioned stretch of video. Its id is its file's path below the data root, so that a seed means the
same clip on every machine and in every order. A manifest is saved as JSON lines or Parquet, one row a clip:
`{"id": ..., "video": "videos/a.mp4", "captions": [...], "start": 1.5, "end": 4.0}`, and one row
`{"id": ..., "left_out": reason}` for each clip that is not used. Captions that a model made have a `provenance` beside
them (see `Clip`). Other fields of a row mean nothing here, and are not kept.
"""

import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from ..video import PICTURES
from .locate import Locator
from .remote import url_of
from .tables import Pairs, iter_rows

VIDEOS = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".gif", ".mpg", ".mpeg", ".3gp", ".ts", ".wmv", ".flv", ".ogv")
)

_CHUNK = 10_000  # rows of a manifest that are read together
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("video", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("left_out", pa.string()),
        ("provenance", pa.string()),  # as JSON
    ]
)


@dataclass(frozen=True, slots=True)
class Clip:
    """One captioned stretch of video, or a picture.

    Args:
        id: names the clip for ever: the file's posix path below the data root, and `#START-END` after it where the
            clip is a stretch of a longer file. It depends on no order and on no other clip.
        path: the file; one that leads into an archive is opened by `video.open_file`.
        captions: one or more; every epoch draws one.
        start, end: seconds from the first frame of the file; None is the file's own start or end.
        provenance: where captions made by a model come from: `{"original": [...], "made": [...]}`, the captions before,
            and one record for each made one, in order. As JSON can hold it.
    """

    id: str
    path: Path
    captions: tuple[str, ...]
    start: float | None = None
    end: float | None = None
    provenance: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def source(self) -> str:
        """The id of the file: the same for all stretches of one file."""
        return self.id if self.start is None and self.end is None else self.id.rsplit("#", 1)[0]

    @property
    def is_picture(self) -> bool:
        """True for a still picture: a clip of one frame."""
        return self.path.suffix.lower() in PICTURES


class LeftOut(NamedTuple):
    """A clip, a caption or a row that is not used, and why."""

    id: str
    reason: str

    @property
    def lacks_caption(self) -> bool:
        """Whether nothing but a caption is missing: a model can make one."""
        return self.reason.startswith(("no caption", "empty caption"))


@dataclass
class Manifest:
    """The clips of one data set, and what was left out of it.

    Args:
        root: the data root: every clip's file is inside.
        layout: the name of the layout it was read from.
        clips: what can be used. Ids are unique.
        left_out: what cannot be used, with the reasons.
        notes: what else there was that is not used, such as settings of another tool, in sentences.
    """

    root: Path
    layout: str
    clips: list[Clip]
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.clips)

    def save(self, path: str | Path) -> None:
        """Writes the manifest as JSON lines, or as Parquet by a name that ends in `.parquet`.

        Video paths are written relative to `root`. A manifest that stands in its data root is found and opened by
        itself; one that stands elsewhere is opened with `data_root`. The file appears whole or not at all.

        Raises:
            DataError: a clip's file lies outside of the root.
        """
        rows = [_row(clip, self.root) for clip in self.clips]
        rows += [{"id": id, "left_out": reason} for id, reason in self.left_out]
        if Path(path).suffix.lower() == ".parquet":
            sink = pa.BufferOutputStream()
            for row in rows:
                if "provenance" in row:
                    row["provenance"] = json.dumps(row["provenance"], ensure_ascii=False)
            pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), sink)
            write_file(path, sink.getvalue().to_pybytes())
        else:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_file(path, text.encode())

    @classmethod
    def load(cls, path: str | Path, root: str | Path | None = None) -> "Manifest":
        """Reads what `save` wrote. Clips whose file is gone are in `left_out`.

        Args:
            path: a manifest in JSON lines or Parquet.
            root: the data root; None is the folder of the manifest.

        Raises:
            DataError: the file cannot be read, or is no manifest.
        """
        path = Path(path)
        manifest = cls(Path(root or path.parent).absolute(), "manifest", [])
        locate = Locator(manifest.root)
        seen: set[str] = set()
        rows = iter_rows(path)
        while chunk := list(islice(rows, _CHUNK)):  # remote files of a chunk are fetched together
            locate.prefetch(row.get("video") for _, row in chunk if isinstance(row, dict))
            for where, row in chunk:
                _take_row(manifest, seen, locate, row, f"{path}, {where}")
        return manifest


def _take_row(manifest: Manifest, seen: set[str], locate: Locator, row: dict[str, Any] | str, where: str) -> None:
    """Adds one row to a manifest, to its clips or to what is left out."""
    if isinstance(row, str):
        raise DataError(f"{where} {row}. A manifest is written by `text2video`; write it again.")
    if not _is_row(row):
        raise DataError(f"{where} is no row of a manifest: that has id, video, captions, and start and end or none.")
    id = row["id"]
    if row.get("left_out"):
        manifest.left_out.append(LeftOut(id, row["left_out"]))
    elif isinstance(video := locate(row["video"]), str):
        manifest.left_out.append(LeftOut(id, video))
    elif id in seen:
        manifest.left_out.append(LeftOut(id, f"the same id a second time ({where})"))
    else:
        seen.add(id)
        times = row.get("start"), row.get("end")
        manifest.clips.append(Clip(id, video, tuple(row["captions"]), *times, _provenance(row)))


def _row(clip: Clip, root: Path) -> dict[str, Any]:
    row = {"id": clip.id, "video": relative(clip.path, root), "captions": list(clip.captions)}
    optional = ("start", "end", "provenance")
    return row | {key: value for key in optional if (value := getattr(clip, key)) is not None}


def _provenance(row: dict[str, Any]) -> dict[str, Any] | None:
    """As it was saved: an object, or its JSON in Parquet. None for what is no record of captions made."""
    value = row.get("provenance")
    try:
        value = json.loads(value) if isinstance(value, str) else _plain(value)
    except ValueError:
        return None
    if isinstance(value, dict) and isinstance(value.get("original"), list) and isinstance(value.get("made"), list):
        return value
    return None


def _plain(value: Any) -> Any:
    """JSON as `read_table` gives it, with its objects as dicts."""
    if isinstance(value, Pairs):
        return {key: _plain(entry) for key, entry in value}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def _is_row(row: dict[str, Any]) -> bool:
    if not isinstance(row.get("id"), str):
        return False
    if row.get("left_out"):
        return isinstance(row["left_out"], str)
    captions, times = row.get("captions"), [row.get("start"), row.get("end")]
    return (
        isinstance(row.get("video"), str)
        and isinstance(captions, list)
        and bool(captions)
        and all(isinstance(caption, str) and caption for caption in captions)
        and all(time is None or (isinstance(time, int | float) and time >= 0) for time in times)
    )


def clip_id(relative_path: str | PurePosixPath, start: float | None = None, end: float | None = None) -> str:
    """The id of a clip: `videos/a.mp4`, or `videos/a.mp4#1.5-4` for its stretch from 1.5 to 4 seconds.

    Composed Unicode (NFC), so that a name copied through macOS keeps its id.
    """
    id = unicodedata.normalize("NFC", str(relative_path))
    if start is None and end is None:
        return id
    return f"{id}#{_seconds(start)}-{_seconds(end)}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}".rstrip("0").rstrip(".")


def relative(path: Path, root: Path) -> str:
    """The posix path of `path` below `root`; the address of a remote file that lies in the cache.

    Raises:
        DataError: the path lies outside of the root.
    """
    if (url := url_of(path)) and not (url_of(root) and path.is_relative_to(root)):
        return url
    for real in (Path.absolute, Path.resolve):  # the root may be named through a link
        try:
            return real(path).relative_to(real(root)).as_posix()
        except ValueError:
            continue
    raise DataError(
        f"{path} lies outside of the data root {root}, and a manifest names files relative to its root. "
        "Give a data_root that holds all the files."
    )


def clean_caption(caption: str) -> str:
    """One caption as one line: the white space around it goes, and a line break inside becomes a space."""
    return re.sub(r"\s*[\r\n]+\s*", " ", caption.strip())


def split(clips: Sequence[Clip], val_fraction: float, seed: int = 0) -> tuple[list[Clip], list[Clip]]:
    """The clips to train on and the clips to validate on.

    Each file's side is drawn from `(seed, file)` alone: adding clips moves no other, and the stretches of one file
    stay together. About `val_fraction` of the files are for validation. Where chance would leave a side of a
    tiny set empty, the file that came nearest to it is put there, and may move when clips are added.

    Raises:
        DataError: `val_fraction` is not within 0 and 1 (1 excluded).
    """
    if not 0 <= val_fraction < 1:
        raise DataError(
            f"The validation fraction is {val_fraction}; it has to be at least 0 and below 1. "
            "0.1 keeps about one clip in ten."
        )
    draws = {clip.source: stable_hash("split", seed, clip.source) / 2**64 for clip in clips}
    val = {source for source, draw in draws.items() if draw < val_fraction}
    if val_fraction > 0 and len(draws) > 1:
        if not val:
            val = {min(draws, key=draws.__getitem__)}
        elif len(val) == len(draws):
            val.remove(max(draws, key=draws.__getitem__))
    return [clip for clip in clips if clip.source not in val], [clip for clip in clips if clip.source in val]


def stable_hash(*parts: object) -> int:
    """A whole number of 64 bits that is the same for equal parts on every machine and in every process."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def write_file(path: str | Path, content: bytes | str) -> None:
    """Writes a file so that it is there whole or not at all: beside its place, flushed, then renamed."""
    path = Path(path)
    beside = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
