"""Finds out how captioned clips lie on disk, reads them into one manifest, and writes them back in any layout."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ..errors import DataError, UsageError
from ..video import PICTURES
from .clips import VIDEOS, Manifest
from .export import TABLES, write_layout
from .readers import (
    no_clip,
    read_captions_json,
    read_captions_txt,
    read_columns,
    read_text_lists,
    read_webvid,
    usable_columns,
)
from .tables import TABLE_SUFFIXES, Table, read_table

__all__ = ["LAYOUTS", "read_layout", "write_layout"]

LAYOUTS = {
    "captions_txt": "videos/NAME.mp4 with captions/NAME.txt, one caption a line",
    "captions_json": 'videos/ with captions.json: {"NAME.mp4": "caption"}',
    "text_lists": "prompt.txt (or prompts.txt) with videos.txt, line by line",
    "table": "a CSV, TSV, JSON, JSON lines or Parquet file with a video and a caption column",
    "webvid": "a table with videoid, contentUrl, page_dir, name, and the files as videos/PAGE_DIR/VIDEOID.mp4",
    "manifest": "manifest.jsonl or manifest.parquet, as text2video writes it",
}
_IN_TABLES = ("table", "webvid", "manifest")
_COLUMNS_OF = {"manifest": {"id", "video", "captions"}, "webvid": {"videoid", "page_dir", "name"}}


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

    Args:
        data_dir: the data root, or the folder of videos itself with `caption_file`, or a table.
        caption_file: a captions.json that stands elsewhere, or a table.
        data_root: where the paths in lists and tables begin; the same as `data_dir`.
        dataset_file: a table or a manifest.
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
    if data_dir is not None and Path(data_dir).is_file():
        data_dir, dataset_file = None, dataset_file or data_dir
    table = _named_file(dataset_file, data_root or data_dir)
    captions = _named_file(caption_file, data_root or data_dir)
    if captions is not None and captions.suffix.lower() != ".json":
        table, captions = table or captions, None
    root = _root(data_dir, data_root, table, captions)

    columns = (caption_column, video_column)
    where_it_stands = (
        _IN_TABLES if table is not None else ("captions_json",) if captions is not None else tuple(LAYOUTS)
    )
    if layout is not None and layout not in where_it_stands:
        raise UsageError(
            f"{table or captions} was named, and the layout {layout} does not stand in it. Give one of them."
        )
    if table is not None:
        return _read_any_table(root, table, read_table(table), columns, layout)
    if captions is not None:
        return read_captions_json(root, captions)
    if caption_column and video_column and (root / caption_column).is_file() and (root / video_column).is_file():
        return read_text_lists(root, root / caption_column, root / video_column)

    known = {} if any(columns) else _layouts_by_name(root)
    if layout is None and len(known) > 1:
        seen = "; ".join(f"{name} ({LAYOUTS[name]})" for name in known)
        raise UsageError(f"{root} holds several layouts: {seen}. Say with layout which one to read.")
    if known and (layout is None or layout in known):
        return known[layout or next(iter(known))]()
    if layout is None or layout in _IN_TABLES:
        found = _find_table(root, columns, layout)
        if found:
            return _read_any_table(root, *found, columns, layout)
    raise DataError(_nothing_found(root, columns, layout))


def _named_file(file: str | Path | None, folder: str | Path | None) -> Path | None:
    """A file that an option names: as it is, or inside of the data folder."""
    if file is None:
        return None
    for path in (Path(file), Path(folder or ".") / file):
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


def _layouts_by_name(root: Path) -> dict[str, Callable[[], Manifest]]:
    """The layouts that fixed names give away, and how to read each."""
    known: dict[str, Callable[[], Manifest]] = {}
    if (root / "videos").is_dir() and (root / "captions").is_dir():
        known["captions_txt"] = lambda: read_captions_txt(root)
    if (root / "captions.json").is_file():
        known["captions_json"] = lambda: read_captions_json(root, root / "captions.json")
    prompts = [root / name for name in ("prompt.txt", "prompts.txt") if (root / name).is_file()]
    if prompts and (root / "videos.txt").is_file():
        known["text_lists"] = lambda: read_text_lists(root, _only(prompts), root / "videos.txt")
    manifests = [root / name for name in ("manifest.jsonl", "manifest.parquet") if (root / name).is_file()]
    if manifests:
        known["manifest"] = lambda: _read_any_table(
            root, (f := _only(manifests)), read_table(f), (None, None), "manifest"
        )
    return known


def _only(files: list[Path]) -> Path:
    if len(files) > 1:
        raise UsageError(
            f"{files[0].parent} holds {' and '.join(file.name for file in files)}. Keep the one that is right."
        )
    return files[0]


Columns = tuple[str | None, str | None]


def _kind(table: Table, columns: Columns, layout: str | None) -> str | None:
    """Which of the layouts in tables a table is; None when it is none of them, or not the one that was named."""
    if layout != "table" and not any(columns):
        for kind, needed in _COLUMNS_OF.items():
            if needed <= set(table.columns) and layout in (None, kind):
                return kind
    return "table" if layout in (None, "table") and usable_columns(table, *columns) else None


def _read_any_table(root: Path, file: Path, table: Table, columns: Columns, layout: str | None) -> Manifest:
    kind = _kind(table, columns, layout)
    if kind == "manifest":
        manifest = Manifest.load(file, root)
        if not manifest.clips:
            raise DataError(no_clip(root, "manifest", manifest.left_out))
        return manifest
    if kind == "webvid":
        return read_webvid(root, file, table)
    if kind is None and layout in _COLUMNS_OF:
        needed = ", ".join(sorted(_COLUMNS_OF[layout]))
        raise DataError(
            f"{file} is no {layout} table: that has the columns {needed}, and this one has "
            f"{', '.join(map(str, table.columns)) or 'none'}. Leave layout out to have it found."
        )
    return read_columns(root, file, table, *columns)


def _find_table(root: Path, columns: Columns, layout: str | None) -> tuple[Path, Table] | None:
    """The one table at the top of the data root that has the columns."""
    files = sorted(p for p in root.iterdir() if p.suffix.lower() in TABLE_SUFFIXES and not p.name.startswith("."))
    found: list[tuple[Path, Table]] = []
    broken: DataError | None = None
    for file in files:
        try:
            table = read_table(file)
        except DataError as error:  # it matters only when no other table is the right one
            broken = broken or error
            continue
        if _kind(table, columns, layout) or len(files) == 1:
            found.append((file, table))
    if len(found) > 1:
        names = ", ".join(file.name for file, _ in found)
        raise UsageError(f"{root} holds several tables: {names}. Say with dataset_file which one to read.")
    if not found and broken is not None:
        raise broken
    return found[0] if found else None


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
