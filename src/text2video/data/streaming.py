"""Hugging Face data sets by name, row by row: each clip becomes a file as it arrives, and memory holds one.

`datasets` fetches the rows; nothing is decoded. Files and captions gather in a folder, with one JSON line a row in
`rows.jsonl`: a stream that was interrupted goes on at the next row. What a row holds is judged as in `readers`.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError
from ..video import open_file
from .clips import Manifest, write_file
from .locate import Locator
from .readers.columns import CAPTION_COLUMNS, find_column
from .readers.gather import Gather
from .readers.huggingface import BYTES_COLUMNS, called
from .remote import as_url
from .tables import iter_rows, read_text

_ROWS = "rows.jsonl"


def open_stream(name: str, split: str = "train") -> Any:
    """A data set of the Hub, or in a folder, as a stream of rows whose videos and pictures are {bytes, path}.

    Args:
        name: `user/name`, `user/name:configuration`, or a folder of files.
        split: which of its splits.

    Raises:
        UsageError: the library `datasets` is not installed.
        DataError: there is no such data set, or it cannot be reached.
    """
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"hf:{name} needs the library `datasets`. Install it: pip install text2video[datasets]"
        ) from error
    folder = Path(name)
    path, _, configuration = (name, "", "") if folder.exists() else name.partition(":")
    try:
        rows = datasets.load_dataset(path, configuration or None, split=split, streaming=True)
        for column, feature in (rows.features or {}).items():
            if isinstance(feature, datasets.Video | datasets.Image):
                rows = rows.cast_column(column, type(feature)(decode=False))
    except Exception as error:  # of the Hub, of the network, of the files: each has errors of its own
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(
            f"hf:{name}, split {split}, cannot be opened ({reason:.300}). Check name, split, network and access "
            "(`hf auth login`)."
        ) from error
    return rows


def take_stream(
    rows: Any,
    folder: Path,
    *,
    source: str = "",
    home: Path | None = None,
    max_samples: int | None = None,
    caption_column: str | None = None,
    video_column: str | None = None,
    on_done: Callable[[int], None] | None = None,
) -> Manifest:
    """Gathers a stream's clips in a folder, going on where an earlier call was interrupted.

    Args:
        rows: an iterable of rows by column name; `skip(n)`, where it has that, is how it goes on.
        folder: for the files and `rows.jsonl`; made when it is not there.
        source: what the rows are of: a folder goes on with the same only.
        home: the folder on this machine that the rows come from. Rows may name files inside it, and no others.
        max_samples: rows to take, at most.
        caption_column, video_column: names of columns; usual ones are found.
        on_done: called with the number of rows taken so far.

    Raises:
        DataError: no such columns, no clip that can be used, a stream that breaks off, or a folder of another stream.
    """
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    _same_source(folder, source)
    done = _finished(folder)
    rest: Iterable[dict[str, Any]] = rows.skip(done) if hasattr(rows, "skip") else islice(rows, done, None)
    wanted = None if max_samples is None else max(0, max_samples - done)
    with (folder / _ROWS).open("a", encoding="utf-8", newline="\n") as journal:
        for number, row in enumerate(_guarded(islice(rest, wanted), done), done):
            taken = _take(row, folder, number, home, caption_column, video_column)
            journal.write(json.dumps(taken, default=str) + "\n")
            journal.flush()
            if on_done:
                on_done(number + 1)
    return _gathered(folder, max_samples)


def _same_source(folder: Path, source: str) -> None:
    file = folder / "source.txt"
    if not file.is_file():
        write_file(file, source)
    elif (begun := read_text(file)) != source:
        raise DataError(f"{folder} holds rows of {begun}, not of {source}. Remove it, or name another folder.")


def _finished(folder: Path) -> int:
    """How many rows were taken; what a killed process left of one more is cut off."""
    journal = folder / _ROWS
    content = journal.read_bytes() if journal.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        write_file(journal, whole)
    return whole.count(b"\n")


def _guarded(rows: Iterable[dict[str, Any]], done: int) -> Iterator[dict[str, Any]]:
    try:
        for row in rows:
            yield row
            done += 1
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(
            f"The stream broke off after {done} rows ({reason:.300}). The same command goes on from there."
        ) from error


def _take(
    row: dict[str, Any],
    folder: Path,
    number: int,
    home: Path | None,
    caption_column: str | None,
    video_column: str | None,
) -> dict[str, Any]:
    """Writes a row's file, and says what the row was."""
    video = find_column(list(row), video_column, BYTES_COLUMNS)
    caption = find_column(list(row), caption_column, CAPTION_COLUMNS)
    if video is None or caption is None:
        what = "video" if video is None else "caption"
        raise DataError(
            f"The rows have no {what} column of a usual name. Their columns are {', '.join(row)}. "
            f"Name the right one with {what}_column."
        )
    value = row[video]
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    taken = {"row": number, "captions": row[caption], "start": row.get("start"), "end": row.get("end")}
    name = content if isinstance(content, str) else path if content is None else None
    if isinstance(name, str) and as_url(name):
        return taken | {"video": name}
    if isinstance(name, str) and home and isinstance(found := Locator(home)(name), Path):
        with open_file(found) as opened:
            content = opened.read()
    if not isinstance(content, bytes):
        return taken | {"video": None, "named": name}
    file = folder / "videos" / f"{number:07d}{os.path.splitext(called(path, video))[1]}"  # noqa: PTH122
    write_file(file, content)
    return taken | {"video": f"videos/{file.name}"}


def _gathered(folder: Path, max_samples: int | None) -> Manifest:
    gather, locate = Gather(folder, "huggingface"), Locator(folder)
    rows = list(islice(iter_rows(folder / _ROWS), max_samples))
    locate.prefetch(row["video"] for _, row in rows if isinstance(row, dict))
    for where, row in rows:
        if isinstance(row, str):
            raise DataError(f"{folder / _ROWS}, {where} {row}. Remove the folder and begin anew.")
        name = row["video"]
        path = locate(name) if isinstance(name, str) else f"the row holds no video ({row.get('named')!r:.80})"
        if isinstance(path, str):
            gather.leave(f"row {row['row']}", path)
        else:
            gather.take_row(path, row["captions"], f"row {row['row']}", row)
    return gather.manifest()
