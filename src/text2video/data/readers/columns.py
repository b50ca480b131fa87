"""Layouts made of one table: named columns, WebVid, and metadata files beside their videos."""

from collections.abc import Sequence
from pathlib import Path

from ...errors import DataError
from ..clips import Manifest
from ..locate import Locator
from ..tables import Table, read_table
from .gather import Gather

CAPTION_COLUMNS = ("caption", "text", "prompt", "name", "captions")
VIDEO_COLUMNS = ("video", "file", "file_name", "filename", "path", "video_path")


def read_columns(
    root: Path, file: Path, table: Table, caption_column: str | None, video_column: str | None
) -> Manifest:
    """A table with a video and a caption column, and `start` and `end` in seconds where it has them.

    Several rows of one file are several captions of it.
    """
    gather = Gather(root, file.suffix[1:].lower().replace("ndjson", "jsonl"))
    caption_column = _column(file, table, caption_column, CAPTION_COLUMNS, "caption")
    video_column = _column(file, table, video_column, VIDEO_COLUMNS, "video")
    _take_rows(gather, Locator(root, (".", "videos")), file.name, table, caption_column, video_column)
    return gather.manifest()


def read_metadata(root: Path, files: list[Path]) -> Manifest:
    """`metadata.csv`, `.jsonl` or `.parquet` of Hugging Face's folders: `file_name` begins in the table's folder."""
    gather = Gather(root, "metadata")
    for file in files:
        table = read_table(file)
        caption_column = _column(file, table, None, CAPTION_COLUMNS, "caption")
        video_column = _column(file, table, None, ("file_name",), "video")
        below = file.parent.relative_to(root).as_posix()
        name = file.relative_to(root).as_posix()
        _take_rows(gather, Locator(root, (below,)), name, table, caption_column, video_column)
    return gather.manifest()


def _take_rows(
    gather: Gather, locate: Locator, file: str, table: Table, caption_column: str, video_column: str
) -> None:
    locate.prefetch(row.get(video_column) for _, row in table.rows if isinstance(row, dict))
    for where, row in table.rows:
        where = f"{file} {where}"
        if isinstance(row, str):
            gather.leave(where, f"the row cannot be read (it {row})")
            continue
        name = row.get(video_column)
        path = locate(name) if isinstance(name, str) else f"no path in the video column ({name!r:.60})"
        if isinstance(path, str):
            gather.leave(name if name and isinstance(name, str) else where, f"{path} ({where})")
        else:
            gather.take_row(path, row.get(caption_column), where, row)


def read_webvid(root: Path, file: Path, table: Table) -> Manifest:
    """WebVid's table: a row's file is `PAGE_DIR/VIDEOID.mp4` below `videos/` or the root, and `name` its caption.

    Nothing is fetched: to get the files from `contentUrl`, give that as the video column.
    """
    gather = Gather(root, "webvid")
    locate = Locator(root, ("videos", "."))
    for where, row in table.rows:
        where = f"{file.name} {where}"
        if isinstance(row, str):
            gather.leave(where, f"the row cannot be read (it {row})")
            continue
        video = str(row["videoid"] if row["videoid"] is not None else "").strip()
        name = f"{row['page_dir'] or '.'}/{video}"
        # the id of a file that is no MP4 is its whole name
        found = [locate(name + suffix) for suffix in (".mp4", "") if video]
        path = next((path for path in found if isinstance(path, Path)), found[0] if found else "no videoid")
        if isinstance(path, str):
            gather.leave(name, f"{path} ({where})")
        else:
            gather.take(path, row["name"], where)
    return gather.manifest()


def usable_columns(columns: Sequence[str], caption_column: str | None, video_column: str | None) -> bool:
    """Whether there is a caption and a video column."""
    pairs = ((caption_column, CAPTION_COLUMNS), (video_column, VIDEO_COLUMNS))
    return all(find_column(columns, given, usual) is not None for given, usual in pairs)


def find_column(columns: Sequence[str], given: str | None, usual: tuple[str, ...]) -> str | None:
    """The column of the given name, else the first of the usual names, in any case of letters."""
    if given is not None:
        return given if given in columns else None
    by_name = {name.lower(): name for name in reversed(columns)}
    return next((by_name[name] for name in usual if name in by_name), None)


def _column(file: Path, table: Table, given: str | None, usual: tuple[str, ...], what: str) -> str:
    found = find_column(table.columns, given, usual)
    if found is None:
        where, row = next(iter(table.rows), ("", {}))
        if isinstance(row, str):
            raise DataError(f"{file}, {where} {row}, and no other row tells its columns. Put the file right.")
        missing = f"no column {given!r}" if given else f"no {what} column of a usual name ({', '.join(usual)})"
        raise DataError(
            f"{file} has {missing}. Its columns are: {', '.join(map(str, table.columns)) or 'none'}. "
            f"Name the right one with {what}_column."
        )
    return found
