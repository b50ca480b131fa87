"""Hugging Face data sets on this machine: Parquet files, and the Arrow files of `save_to_disk`.

The video column holds {bytes, path}, bytes, or paths. Bytes stay in the table: a clip's path leads to its row, and
`video` opens it there. Nothing here needs the `datasets` library.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import DataError
from ...video import PICTURES
from ...video.members import table_shape
from ..clips import VIDEOS, Manifest
from ..locate import Locator
from ..tables import Pairs, read_json
from .columns import CAPTION_COLUMNS, VIDEO_COLUMNS, find_column
from .gather import Gather, scan

BYTES_COLUMNS = ("video", "mp4", "webm", "mov", "bytes", "image", "jpg", "png", *VIDEO_COLUMNS)
_SPLIT = re.compile(r"(.+?)-\d{5}-of-\d{5}")


def holds_bytes(schema: pa.Schema) -> bool:
    """Whether a table has a column of bytes, or of {bytes, path}."""
    return bool(_bytes_columns(schema))


def is_saved(root: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (root / "dataset_dict.json").is_file() or (
        (root / "state.json").is_file() and (root / "dataset_info.json").is_file()
    )


def find_tables(root: Path) -> tuple[list[Path], list[str]]:
    """The Arrow and Parquet files of a data set, and a note on splits that are not read.

    Of several splits (`save_to_disk`'s folders, or names like `test-00000-of-00001.parquet`) `train` is read.
    """
    if is_saved(root) and not (root / "dataset_dict.json").is_file():
        state = dict(_object(root / "state.json"))
        names = [dict(file).get("filename") for file in state.get("_data_files") or []]
        return [path for name in names if isinstance(path := Locator(root)(str(name)), Path)], []
    splits: dict[str, list[Path]] = {}
    if (root / "dataset_dict.json").is_file():
        for name in dict(_object(root / "dataset_dict.json")).get("splits") or []:
            if (root / str(name) / "state.json").is_file() and "/" not in str(name):
                splits[str(name)] = find_tables(root / str(name))[0]
    else:
        for name, path in scan(root, frozenset((".parquet", ".arrow"))).items():
            if not path.name.startswith("cache-"):
                split = _SPLIT.fullmatch(PurePosixPath(name).stem)
                splits.setdefault(split[1] if split else "", []).append(path)
    if len(splits) < 2 or "train" not in splits:
        return [path for files in splits.values() for path in files], []
    others = ", ".join(name or "others" for name in splits if name != "train")
    return splits["train"], [
        f"of the splits only train is read, and not {others}: name a split's folder or file for that"
    ]


def _object(file: Path) -> Pairs:
    content = read_json(file)
    if not isinstance(content, Pairs):
        raise DataError(f"{file} is not as `datasets` saves it. Save the data set again.")
    return content


def read_huggingface(
    root: Path, files: list[Path], notes: list[str], caption_column: str | None, video_column: str | None
) -> Manifest:
    """The rows of Arrow and Parquet files: a video column, a caption column of texts or lists, `start` and `end`."""
    gather = Gather(root, "huggingface")
    gather.notes += notes
    locate = Locator(root, (".", "videos"))
    for file in files:
        name = file.relative_to(root).as_posix()
        try:
            schema, _ = table_shape(file)
            video = find_column(_bytes_columns(schema), video_column, BYTES_COLUMNS)
            video = video or find_column(schema.names, video_column, BYTES_COLUMNS)
            video = video or next(iter(_bytes_columns(schema)), None)
            caption = find_column(schema.names, caption_column, CAPTION_COLUMNS)
            if video is None or caption is None or "/" in video:
                missing = "caption" if caption is None else "video"
                raise DataError(
                    f"{file} has no {missing} column of a usual name. Its columns are {', '.join(schema.names)}. "
                    f"Name the right one with {missing}_column."
                )
            for number, (row, path, inside) in enumerate(_rows(file, schema, video, caption)):
                _take(gather, locate, file, f"{name} row {number + 1}", f"{video}/{number}", row, path, inside)
        except (OSError, pa.ArrowException) as error:
            gather.leave(name, f"the table cannot be read ({error}): copy it again")
    return gather.manifest()


def _take(
    gather: Gather, locate: Locator, file: Path, where: str, cell: str, row: dict, path: Any, inside: bool
) -> None:
    if inside:
        found: Path | str = file / cell / called(path, cell)
    else:
        found = locate(path) if isinstance(path, str) else "the row holds no video"
    if isinstance(found, str):
        gather.leave(path if isinstance(path, str) and path else where, f"{found} ({where})")
    else:
        gather.take_row(found, row["caption"], where, row)


def called(path: object, column: str) -> str:
    """What the bytes of a row are called, as a posix path that stays where it is put and says what they are."""
    parts = str(path or "clip").replace("\\", "/").split("/")
    clean = [part for part in parts if part not in ("", ".", "..") and ":" not in part] or ["clip"]
    if PurePosixPath(clean[-1]).suffix.lower() not in VIDEOS | PICTURES:
        clean[-1] += ".png" if re.search("image|png|jpg|jpeg", column) else ".mp4"
    return "/".join(clean)


def _bytes_columns(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if _is_bytes(field.type) or _is_struct(field.type)]


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _rows(file: Path, schema: pa.Schema, video: str, caption: str) -> Iterator[tuple[dict[str, Any], Any, bool]]:
    """Of each row: caption, start and end; the path in its video column; and whether its bytes are there."""
    plain = [name for name in dict.fromkeys((caption, "start", "end")) if name in schema.names]
    kind = schema.field(video).type
    batches = _parquet(file, video, plain, kind) if file.suffix.lower() == ".parquet" else _arrow(file, video, kind)
    for batch, paths, inside in batches:
        rows = batch.select(plain).to_pylist()
        for row, path, held in zip(rows, paths.to_pylist(), inside.to_pylist(), strict=True):
            yield {"caption": row[caption], "start": row.get("start"), "end": row.get("end")}, path, held


Columns = tuple[pa.RecordBatch, pa.Array, pa.Array]


def _arrow(file: Path, video: str, kind: pa.DataType) -> Iterable[Columns]:
    with pa.ipc.open_stream(pa.memory_map(str(file))) as reader:
        for batch in reader:
            values = batch.column(video)
            if _is_struct(kind):
                yield batch, _paths(values), _field(values, "bytes").is_valid()
            elif _is_bytes(kind):
                yield batch, pa.nulls(len(values)), values.is_valid()
            else:
                yield batch, values, pa.array([False] * len(values))


def _parquet(file: Path, video: str, plain: list[str], kind: pa.DataType) -> Iterable[Columns]:
    """Without reading the bytes: how many are missing in a row group stands in the file's footer."""
    named = [f"{video}.path"] if _is_struct(kind) and kind.get_field_index("path") >= 0 else []
    leaf = f"{video}.bytes" if _is_struct(kind) else video
    held = _is_struct(kind) or _is_bytes(kind)
    with pq.ParquetFile(file) as table:
        for group in range(table.num_row_groups):
            columns = [*plain, *named] if held else [*plain, video]
            missing = _missing(table, group, leaf) if held else None
            done = 0
            for batch in table.iter_batches(1024, row_groups=[group], columns=columns):
                size = batch.num_rows
                paths = pa.nulls(size)
                if named:
                    paths = _paths(batch.column(video))
                elif not held:
                    paths = batch.column(video)
                inside = [held and not (missing and missing[done + row]) for row in range(size)]
                done += size
                yield batch, paths, pa.array(inside)


def _missing(table: pq.ParquetFile, group: int, leaf: str) -> list[bool] | None:
    """Which rows of a row group hold no bytes; None when all do."""
    facts = table.metadata.row_group(group)
    column = next(facts.column(i) for i in range(facts.num_columns) if facts.column(i).path_in_schema == leaf)
    nulls = column.statistics.null_count if column.statistics and column.statistics.has_null_count else None
    if nulls == 0:
        return None
    if nulls == facts.num_rows:
        return [True] * facts.num_rows
    found: list[bool] = []
    for batch in table.iter_batches(1, row_groups=[group], columns=[leaf]):
        values = batch.column(0)
        values = _field(values, "bytes") if pa.types.is_struct(values.type) else values
        found += values.is_null().to_pylist()
    return found


def _paths(values: pa.Array) -> pa.Array:
    return _field(values, "path") if values.type.get_field_index("path") >= 0 else pa.nulls(len(values))


def _field(values: pa.Array, name: str) -> pa.Array:
    return values.flatten()[values.type.get_field_index(name)]
