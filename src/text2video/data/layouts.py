"""Finds out how captioned clips lie on disk, reads them into one manifest, and writes them back in any layout."""

import os
from collections import Counter
from pathlib import Path

from ..errors import DataError, UsageError
from ..video import PICTURES
from ..video.members import ARCHIVES
from . import remote
from .clips import VIDEOS, LeftOut, Manifest
from .export import TABLES, write_layout
from .finding import Columns, by_content, by_last_table, by_name, by_table, read_file
from .readers.folders import read_captions_json, read_text_lists
from .tables import TABLE_SUFFIXES

__all__ = ["LAYOUTS", "read_layout", "write_layout"]

LAYOUTS = {
    "captions_txt": "videos/NAME.mp4 with captions/NAME.txt, one caption a line",
    "captions_json": 'videos/ with captions.json: {"NAME.mp4": "caption"}',
    "text_lists": "prompt.txt (or prompts.txt) with videos.txt, line by line",
    "pairs": "NAME.mp4 with NAME.txt beside it",
    "table": "a CSV, TSV, JSON, JSON lines or Parquet file with a video and a caption column",
    "metadata": "metadata.csv, .jsonl or .parquet with file_name and a caption column, beside the files",
    "webvid": "a table with videoid, contentUrl, page_dir, name, and the files as videos/PAGE_DIR/VIDEOID.mp4",
    "webdataset": "tar shards with KEY.mp4 and KEY.txt or KEY.json",
    "huggingface": "what `datasets` saves: Parquet or Arrow files with a video column of bytes or paths",
    "diffusion_pipe": "a TOML file with [[directory]] parts",
    "musubi_tuner": "a TOML file with [[datasets]] parts",
    "manifest": "manifest.jsonl or manifest.parquet, as text2video writes it",
}
_DATA = VIDEOS | PICTURES | TABLE_SUFFIXES | ARCHIVES | {".txt", ".toml"}


def read_layout(
    data_dir: str | Path | None = None,
    *,
    caption_file: str | Path | None = None,
    data_root: str | Path | None = None,
    dataset_file: str | Path | None = None,
    caption_column: str | None = None,
    video_column: str | None = None,
    layout: str | None = None,
) -> Manifest:
    """The clips of a data set, in whatever layout it lies on disk.

    A folder or table may also be named by an address (https://, s3:// and so on): it is fetched into the cache first.

    Args:
        data_dir: the data root, or the folder of videos itself with `caption_file`, or a file as for `dataset_file`.
        caption_file: a captions.json that stands elsewhere, or a table.
        data_root: where the paths in lists and tables begin; the same as `data_dir`.
        dataset_file: a table, a manifest, a tar shard, an Arrow file, or a TOML description.
        caption_column, video_column: columns of the table (usual names are found), or two text files below the
            data root that go together line by line.
        layout: a name in `LAYOUTS`; None finds it out.

    Raises:
        UsageError: options that do not go together, an unknown layout, several layouts in one folder.
        DataError: nothing found, files that cannot be read, no clip that can be used.
    """
    if layout in TABLES:
        layout = "table"
    if layout is not None and layout not in LAYOUTS:
        raise UsageError(f"There is no layout {layout!r}. The layouts are {', '.join((*LAYOUTS, *TABLES))}.")
    missing: list[LeftOut] = []
    data_dir, data_root = _local(data_dir, missing), _local(data_root, missing)
    if data_dir is not None and Path(data_dir).is_file():
        data_dir, dataset_file = None, dataset_file or data_dir
    table = _named_file(dataset_file, data_root or data_dir, missing)
    captions = _named_file(caption_file, data_root or data_dir, missing)
    if captions is not None and captions.suffix.lower() != ".json":
        table, captions = table or captions, None
    root = _root(data_dir, data_root, table, captions)
    manifest = _read(root, table, captions, (caption_column, video_column), layout, root if data_root else None)
    manifest.left_out += missing
    return manifest


def require_there(place: str | Path | None) -> None:
    """Whether a data folder or file that is named is there; an address is not asked.

    Raises:
        DataError: it is not.
    """
    if place is not None and not Path(place).exists() and not remote.as_url(place):
        raise _no_folder(place)


def _no_folder(place: str | Path | None) -> DataError:
    return DataError(f"The data folder {place} does not exist. Check the path; `text2video setup` makes one.")


def _local(name: str | Path | None, missing: list[LeftOut]) -> str | Path | None:
    """A path as it is; for an address its local copy."""
    if name is None or not (url := remote.as_url(name)) or Path(name).exists():
        return name
    place, lost = remote.mirror(url, _DATA)
    missing += [LeftOut(file, reason) for file, reason in lost]
    return place


def _named_file(file: str | Path | None, folder: str | Path | None, missing: list[LeftOut]) -> Path | None:
    """A file that an option names: as it is, or inside of the data folder."""
    if file is None:
        return None
    file = Path(_local(file, missing) or file)
    for path in (file, Path(folder or ".") / file):
        if path.is_file():
            return Path(os.path.normpath(path.absolute()))
    raise DataError(f"{file} does not exist. Give its path from here, or from the data folder.")


def _root(data_dir: str | Path | None, data_root: str | Path | None, table: Path | None, captions: Path | None) -> Path:
    if data_dir is not None and data_root is not None and Path(data_dir).resolve() != Path(data_root).resolve():
        raise UsageError(
            f"data_dir is {data_dir} and data_root is {data_root}, and both name the data root. Give one of them."
        )
    given, file = data_root or data_dir, table or captions
    if given is None and file is None:
        raise UsageError("No data set is named. Give data_dir, or data_root, or dataset_file.")
    if given is None and file is not None:
        return file.parent
    root = Path(os.path.normpath(Path(given or ".").absolute()))
    if not root.is_dir():
        raise _no_folder(given)
    # `data_dir=data/videos, caption_file=data/captions.json` is the data set `data`: the ids are the same
    return root.parent if captions is not None and captions.parent == root.parent else root


def _read(
    root: Path, table: Path | None, captions: Path | None, columns: Columns, layout: str | None, data_root: Path | None
) -> Manifest:
    """What the options and the folder give away, in this order: a file that was named, names, tables, contents."""
    if table is not None:
        return read_file(root, table, columns, layout, data_root)
    if captions is not None:
        if layout not in (None, "captions_json"):
            raise UsageError(f"{captions} was named, and the layout {layout} does not stand in it. Give one of them.")
        return read_captions_json(root, captions)
    caption_column, video_column = columns
    if caption_column and video_column and (root / caption_column).is_file() and (root / video_column).is_file():
        return read_text_lists(root, root / caption_column, root / video_column)
    looks = (
        lambda: {} if any(columns) else by_name(root),
        lambda: by_table(root, columns, layout),
        lambda: by_content(root, columns),
        lambda: by_last_table(root, columns, layout),
    )
    for look in looks:
        found = {name: read for name, read in look().items() if layout in (None, name)}
        if len(found) > 1:
            seen = "; ".join(f"{name} ({LAYOUTS[name]})" for name in found)
            raise UsageError(f"{root} holds several layouts: {seen}. Say with layout which one to read.")
        for read in found.values():
            return read()
    raise DataError(_nothing_found(root, columns, layout))


def _nothing_found(root: Path, columns: Columns, layout: str | None) -> str:
    suffixes = Counter(path.suffix.lower() for path in root.rglob("*") if path.is_file())
    counts = {
        "videos": sum(suffixes[suffix] for suffix in VIDEOS),
        "pictures": sum(suffixes[suffix] for suffix in PICTURES),
        "text files": suffixes[".txt"],
        "tables": sum(suffixes[suffix] for suffix in TABLE_SUFFIXES),
    }
    counts["other files"] = suffixes.total() - sum(counts.values())
    seen = ", ".join(f"{count} {what}" for what, count in counts.items())
    looked_for = f"the layout {layout}" if layout else "captioned clips in any known layout"
    if any(columns):
        looked_for = f"a table or text files named {' and '.join(repr(name) for name in columns if name)}"
    wanted = "; ".join(LAYOUTS.values() if layout is None else [LAYOUTS[layout]])
    return f"{root} does not hold {looked_for}. Seen there: {seen}. Understood: {wanted}."
