"""Looks at a data folder or a file and says which layouts it may be, with the reader of each."""

import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..errors import DataError, UsageError
from .clips import Manifest
from .readers.columns import read_columns, read_metadata, read_webvid, usable_columns
from .readers.descriptions import read_description
from .readers.folders import has_pairs, read_captions_json, read_captions_txt, read_pairs, read_text_lists
from .readers.gather import no_clip, scan
from .readers.huggingface import find_tables, holds_bytes, is_saved, read_huggingface
from .readers.webdataset import find_shards, read_webdataset
from .tables import TABLE_SUFFIXES, column_names, parquet_schema, read_table

_DESCRIPTIONS = {"directory": "diffusion_pipe", "datasets": "musubi_tuner"}
_COLUMNS_OF = {"manifest": {"id", "video", "captions"}, "webvid": {"videoid", "page_dir", "name"}}
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
Columns = tuple[str | None, str | None]  # names of the caption column and of the video column
Reader = Callable[[], Manifest]


def by_name(root: Path) -> dict[str, Reader]:
    """The layouts that fixed names give away, and how to read each."""
    known: dict[str, Reader] = {}
    if (root / "videos").is_dir() and (root / "captions").is_dir():
        known["captions_txt"] = lambda: read_captions_txt(root)
    if (root / "captions.json").is_file():
        known["captions_json"] = lambda: read_captions_json(root, root / "captions.json")
    names = ("prompt.txt", "prompts.txt", "caption.txt", "captions.txt")
    prompts = [root / name for name in names if (root / name).is_file()]
    videos = [root / name for name in ("videos.txt", "video.txt") if (root / name).is_file()]
    if prompts and videos:
        known["text_lists"] = lambda: read_text_lists(root, _only(prompts), _only(videos))
    manifests = [root / name for name in ("manifest.jsonl", "manifest.parquet") if (root / name).is_file()]
    if manifests:
        known["manifest"] = lambda: _read_table(root, _only(manifests), (None, None), "manifest")
    if is_saved(root):
        known["huggingface"] = lambda: read_huggingface(root, *find_tables(root), None, None)
    for kind in _DESCRIPTIONS.values():
        if files := [file for file in sorted(root.glob("*.toml")) if _described_by(file) == kind]:
            known[kind] = lambda files=files: read_description(_only(files))
    metadata = [root / name for name in _METADATA if (root / name).is_file()]
    if metadata and "file_name" in _columns(metadata[0]):
        known["metadata"] = lambda: read_metadata(root, [_only(metadata)])
    return known


def by_table(root: Path, columns: Columns, layout: str | None) -> dict[str, Reader]:
    """The one table at the top of the data root that has the columns."""
    kinds = {file: _kind(_columns(file), columns, layout) for file in _tables(root)}
    found = {file: kind for file, kind in kinds.items() if kind}
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UsageError(f"{root} holds several tables: {names}. Say with dataset_file which one to read.")
    return {kind: partial(_read_table, root, file, columns, layout) for file, kind in found.items()}


def by_last_table(root: Path, columns: Columns, layout: str | None) -> dict[str, Reader]:
    """A table that is broken or has other columns, where there is nothing else: reading it says what is wrong."""
    if layout not in (None, "table", *_COLUMNS_OF):
        return {}
    files = _tables(root)
    for file in files:
        column_names(file)
    if len(files) != 1:
        return {}
    return {layout or "table": partial(_read_table, root, files[0], columns, layout)}


def _tables(root: Path) -> list[Path]:
    files = sorted(p for p in root.iterdir() if p.suffix.lower() in TABLE_SUFFIXES and not p.name.startswith("."))
    return [file for file in files if not _holds_bytes(file)]


def _columns(file: Path) -> list[str]:
    """The columns of a table; none where it is broken, which matters only when there is nothing else."""
    try:
        return column_names(file)
    except DataError:
        return []


def _holds_bytes(file: Path) -> bool:
    try:
        return file.suffix.lower() == ".parquet" and holds_bytes(parquet_schema(file))
    except DataError:
        return False


def by_content(root: Path, columns: Columns) -> dict[str, Reader]:
    """Layouts with names of any kind: shards, tables with bytes, tables in folders, pairs."""
    known: dict[str, Reader] = {}
    if shards := find_shards(root):
        known["webdataset"] = lambda: read_webdataset(root, shards, columns[0])
    if find_tables(root)[0]:
        known["huggingface"] = lambda: read_huggingface(root, *find_tables(root), *columns)
    tables = [path for path in scan(root, TABLE_SUFFIXES).values() if path.name in _METADATA and path.parent != root]
    if tables and not any(columns):
        known["metadata"] = lambda: read_metadata(root, tables)
    if has_pairs(root) and not any(columns):
        known["pairs"] = lambda: read_pairs(root)
    return known


def read_file(root: Path, file: Path, columns: Columns, layout: str | None, data_root: Path | None) -> Manifest:
    """The data set in one file that was named."""
    suffix = file.suffix.lower()
    fitting: dict[str, Reader] = {}
    if suffix == ".toml" and (kind := _described_by(file, strict=True)):
        fitting[kind] = lambda: read_description(file, data_root)
    elif suffix in (".tar", ".tgz", ".gz"):
        fitting["webdataset"] = lambda: read_webdataset(root, [file], columns[0])
    elif suffix == ".arrow" or _holds_bytes(file):
        fitting["huggingface"] = lambda: read_huggingface(root, [file], [], *columns)
    else:
        fitting = dict.fromkeys(("table", *_COLUMNS_OF), lambda: _read_table(root, file, columns, layout))
        if file.name in _METADATA:
            fitting["metadata"] = lambda: read_metadata(root, [file])
    if layout not in (None, *fitting):
        raise UsageError(f"{file} was named, and the layout {layout} does not stand in it. Give one of them.")
    return fitting[layout or next(iter(fitting))]()


def _described_by(file: Path, strict: bool = False) -> str | None:
    """The tool whose description of a data set a TOML file is. With `strict`, whatever else it is is an error."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        content = {}
    kind = next((kind for key, kind in _DESCRIPTIONS.items() if isinstance(content.get(key), list)), None)
    return kind or ("diffusion_pipe" if strict else None)  # reading it will say what is wrong


def _only(files: list[Path]) -> Path:
    if len(files) > 1:
        raise UsageError(
            f"{files[0].parent} holds {' and '.join(file.name for file in files)}. Keep the one that is right."
        )
    return files[0]


def _kind(names: list[str], columns: Columns, layout: str | None) -> str | None:
    """Which of the layouts in tables a table is; None when it is none of them, or not the one that was named."""
    if layout != "table" and not any(columns):
        for kind, needed in _COLUMNS_OF.items():
            if needed <= set(names) and layout in (None, kind):
                return kind
    return "table" if layout in (None, "table") and usable_columns(names, *columns) else None


def _read_table(root: Path, file: Path, columns: Columns, layout: str | None) -> Manifest:
    names = column_names(file)
    kind = _kind(names, columns, layout)
    if kind == "manifest":
        manifest = Manifest.load(file, root)
        if not manifest.clips:
            raise DataError(no_clip(root, "manifest", manifest.left_out))
        return manifest
    if kind == "webvid":
        return read_webvid(root, file, read_table(file))
    if kind is None and layout in _COLUMNS_OF:
        needed = ", ".join(sorted(_COLUMNS_OF[layout]))
        raise DataError(
            f"{file} is no {layout} table: that has the columns {needed}, and this one has "
            f"{', '.join(map(str, names)) or 'none'}. Leave layout out to have it found."
        )
    return read_columns(root, file, read_table(file), *columns)
