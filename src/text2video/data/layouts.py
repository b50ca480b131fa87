"""Finds out how captioned clips lie on disk, reads them into one manifest, and writes them back in any layout."""

import os
import tomllib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..errors import DataError, UsageError
from ..video import PICTURES
from ..video.members import ARCHIVES
from . import remote
from .clips import VIDEOS, LeftOut, Manifest
from .export import TABLES, write_layout
from .readers.columns import read_columns, read_metadata, read_webvid, usable_columns
from .readers.descriptions import read_description
from .readers.folders import has_pairs, read_captions_json, read_captions_txt, read_pairs, read_text_lists
from .readers.gather import no_clip, scan
from .readers.huggingface import find_tables, holds_bytes, is_saved, read_huggingface
from .readers.webdataset import find_shards, read_webdataset
from .tables import TABLE_SUFFIXES, column_names, parquet_schema, read_table

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
_DESCRIPTIONS = {"directory": "diffusion_pipe", "datasets": "musubi_tuner"}
_COLUMNS_OF = {"manifest": {"id", "video", "captions"}, "webvid": {"videoid", "page_dir", "name"}}
_DATA = VIDEOS | PICTURES | TABLE_SUFFIXES | ARCHIVES | {".txt", ".toml"}
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
Columns = tuple[str | None, str | None]


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
        raise DataError(f"The data folder {given} does not exist. Check the path; `text2video setup` makes one.")
    # `data_dir=data/videos, caption_file=data/captions.json` is the data set `data`: the ids are the same
    return root.parent if captions is not None and captions.parent == root.parent else root


def _read(
    root: Path, table: Path | None, captions: Path | None, columns: Columns, layout: str | None, data_root: Path | None
) -> Manifest:
    """What the options and the folder give away, in this order: a file that was named, names, tables, contents."""
    if table is not None:
        return _read_file(root, table, columns, layout, data_root)
    if captions is not None:
        if layout not in (None, "captions_json"):
            raise UsageError(f"{captions} was named, and the layout {layout} does not stand in it. Give one of them.")
        return read_captions_json(root, captions)
    caption_column, video_column = columns
    if caption_column and video_column and (root / caption_column).is_file() and (root / video_column).is_file():
        return read_text_lists(root, root / caption_column, root / video_column)
    looks = (
        lambda: {} if any(columns) else _by_name(root),
        lambda: _by_table(root, columns, layout),
        lambda: _by_content(root, columns),
        lambda: _by_last_table(root, columns, layout),
    )
    for look in looks:
        found = {name: read for name, read in look().items() if layout in (None, name)}
        if len(found) > 1:
            seen = "; ".join(f"{name} ({LAYOUTS[name]})" for name in found)
            raise UsageError(f"{root} holds several layouts: {seen}. Say with layout which one to read.")
        for read in found.values():
            return read()
    raise DataError(_nothing_found(root, columns, layout))


Reader = Callable[[], Manifest]


def _by_name(root: Path) -> dict[str, Reader]:
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


def _by_table(root: Path, columns: Columns, layout: str | None) -> dict[str, Reader]:
    """The one table at the top of the data root that has the columns."""
    kinds = {file: _kind(_columns(file), columns, layout) for file in _tables(root)}
    found = {file: kind for file, kind in kinds.items() if kind}
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UsageError(f"{root} holds several tables: {names}. Say with dataset_file which one to read.")
    return {kind: partial(_read_table, root, file, columns, layout) for file, kind in found.items()}


def _by_last_table(root: Path, columns: Columns, layout: str | None) -> dict[str, Reader]:
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


def _by_content(root: Path, columns: Columns) -> dict[str, Reader]:
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


def _read_file(root: Path, file: Path, columns: Columns, layout: str | None, data_root: Path | None) -> Manifest:
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
