"""Reads the text and table files that captions come in: UTF-8 text, JSON, JSON lines, CSV, TSV, Parquet.

Whatever is wrong with a file is said with its name and line: a caption that silently slips to the next row would
train the model on untrue words.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError

TABLE_SUFFIXES = frozenset((".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet"))
_LINES = (".jsonl", ".ndjson")


class Table(NamedTuple):
    """Rows of named values. A row that could not be read is a sentence about what is wrong with it."""

    columns: list[str]
    rows: list[tuple[str, dict[str, Any] | str]]  # ("line 7", values by column)


class Pairs(list[tuple[str, Any]]):
    """A JSON object as its (key, value) pairs, in order: a key that stands twice is seen."""


_DECODER = json.JSONDecoder(object_pairs_hook=Pairs)


def read_text(path: Path) -> str:
    """A UTF-8 text file; a byte order mark at its start is dropped.

    Raises:
        DataError: the file cannot be opened, or is in another encoding (with the line of the first bad byte).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be opened: {error.strerror or error}. Check the path and its permissions."
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        guess = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "another encoding"
        raise DataError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8, so the file is in {guess}. "
            f"Caption files are read as UTF-8: save it as UTF-8 (iconv -f ENCODING -t UTF-8 {path.name})."
        ) from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that end in LF, CR LF or CR, without their ends. A final line end adds no line.

    Only these three end a line: `str.splitlines` would also cut a caption at rarer marks such as U+2028.
    """
    lines = read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_json(path: Path) -> Any:
    """The content of a JSON file; objects come as `Pairs`.

    Raises:
        DataError: it is not JSON (with line and column).
    """
    try:
        return json.loads(read_text(path), object_pairs_hook=Pairs)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}, column {error.colno} is not JSON: {error.msg}. Put that line right; "
            "every entry but the last ends in a comma, and every text stands in double quotes."
        ) from error
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, or 5000 brackets
        raise DataError(
            f"{path} is no file of captions: it is nested too deeply, or holds a number too long."
        ) from error


Row = tuple[str, dict[str, Any] | str]


def read_table(path: Path) -> Table:
    """The rows of a CSV, TSV, JSON lines, JSON or Parquet file.

    Raises:
        DataError: the file cannot be read, or holds no table.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet" or suffix in _LINES:
        rows = list(iter_rows(path))
        return Table(_columns_of(rows) if suffix in _LINES else column_names(path), rows)
    if suffix == ".json":
        content = read_json(path)
        if isinstance(content, Pairs) or not isinstance(content, list):
            raise DataError(
                f"{path} holds no table: a JSON table is a list of objects, "
                '[{"video": "a.mp4", "caption": "..."}, ...]. '
                'A file like {"a.mp4": "..."} is given as caption_file.'
            )
        rows = [_checked(f"entry {n}", entry) for n, entry in enumerate(content, 1)]
        return Table(_columns_of(rows), rows)
    if suffix in (".csv", ".tsv"):
        return _read_csv(path)
    raise DataError(
        f"{path} is not a table that can be read: its name ends in {suffix or 'nothing'}, "
        f"and tables are {', '.join(sorted(TABLE_SUFFIXES))}."
    )


def iter_rows(path: Path) -> Iterator[Row]:
    """The rows of a table one by one, where the file lets them: JSON lines and Parquet. Raises as `read_table`."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _iter_parquet(path)
    return _iter_lines(path) if suffix in _LINES else iter(read_table(path).rows)


def column_names(path: Path) -> list[str]:
    """The names of a table's columns; of JSON lines those in the first thousand rows. Raises as `read_table`."""
    if path.suffix.lower() == ".parquet":
        return parquet_schema(path).names
    return _columns_of(islice(iter_rows(path), 1000)) if path.suffix.lower() in _LINES else read_table(path).columns


def parquet_schema(path: Path) -> pa.Schema:
    """The columns of a Parquet file. DataError when it cannot be read."""
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise _no_parquet(path, error) from error


def _columns_of(rows: Iterable[Row]) -> list[str]:
    columns: dict[str, None] = {}
    for _, row in rows:
        if isinstance(row, dict):
            columns |= dict.fromkeys(row)
    return list(columns)


def _iter_lines(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with path.open("rb") as file:
            for content in file:
                # no JSON value holds a bare CR, so each ends a line, as in the files of old Macs
                for line in content.rstrip(b"\r\n").split(b"\r"):
                    number += 1
                    if number == 1:
                        line = line.removeprefix(b"\xef\xbb\xbf")
                    if line.strip():
                        yield _parsed(f"line {number}", line.decode())
    except UnicodeDecodeError:
        read_text(path)  # says it with the line
        raise
    except OSError as error:
        raise DataError(
            f"{path} cannot be opened: {error.strerror or error}. Check the path and its permissions."
        ) from error


def _parsed(where: str, line: str) -> Row:
    try:
        return _checked(where, _DECODER.decode(line))
    except (ValueError, RecursionError) as error:  # ValueError also for a number of 5000 digits
        return where, f"is not JSON ({error})"


def _checked(where: str, value: Any) -> Row:
    if not isinstance(value, Pairs):
        return where, "is not a JSON object with named values"
    row = dict(value)
    return where, row if len(row) == len(value) else "names the same column twice"


def _read_csv(path: Path) -> Table:
    text = read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, text), strict=True)
    columns: list[str] = []
    rows: list[tuple[str, dict[str, Any] | str]] = []
    start = 1
    try:
        for values in reader:
            where, start = f"line {start}", reader.line_num + 1
            if not any(value.strip() for value in values):
                continue
            if not columns:
                columns = [value.strip() for value in values]
            elif len(values) != len(columns):
                rows.append((where, f"has {len(values)} values, and the header has {len(columns)} columns"))
            else:
                rows.append((where, dict(zip(columns, values, strict=True))))
    except csv.Error as error:
        raise DataError(
            f"{path}, the row that begins on line {start} cannot be read: {error}. A value with a comma, a quote "
            'or a line break stands in double quotes, and a quote inside it is written twice: "he said ""hi""".'
        ) from error
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the header names {', '.join(twice)} twice. Give every column its own name.")
    return Table(columns, rows)


def _delimiter(path: Path, text: str) -> str:
    """A tab in `.tsv`; in `.csv` the comma, or what stands instead of it in the header: tab or semicolon."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    header = text.lstrip().split("\n", 1)[0]
    return next((sign for sign in ",\t;" if sign in header), ",")


def _iter_parquet(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(10_000):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (OSError, pa.ArrowException) as error:
        raise _no_parquet(path, error) from error


def _no_parquet(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read as Parquet: {error}. Check that it was copied whole.")
