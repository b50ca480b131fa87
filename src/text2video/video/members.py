"""Files inside of archives, by ordinary paths: `shards/0001.tar/000017.mp4` is a member of a tar, and opens as a file.

Nothing is unpacked: a member is a window onto its archive. Three kinds are known:
- `.tar`, not compressed: `ARCHIVE/NAME OF THE MEMBER`;
- `.arrow` (as `datasets` saves it) and `.parquet`: `ARCHIVE/COLUMN/ROW/NAME` are the bytes in that row of a column of
  bytes or of {bytes, path}; NAME is what they are called.
What an archive holds is read once per process. All functions may be called from several threads.
"""

import errno
import io
import os
import tarfile
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

ARCHIVES = frozenset((".tar", ".arrow", ".parquet"))


class Member(NamedTuple):
    """A file in an archive; `name` is its posix path inside."""

    archive: Path
    name: str


class TarIndex(NamedTuple):
    """The plain files of a tar as {name: (offset, size)} in bytes, and what in it cannot be used, with the reasons."""

    files: dict[str, tuple[int, int]]
    problems: list[tuple[str, str]]


def member_of(path: Path) -> Member | None:
    """The archive that a path leads into, and the place inside; None for an ordinary path."""
    for parent in path.parents:
        if parent.suffix.lower() in ARCHIVES and parent.is_file():
            return Member(parent, path.relative_to(parent).as_posix())
    return None


def is_file(path: Path) -> bool:
    """Whether there is an ordinary file, or a member of an archive."""
    if path.is_file():
        return True
    member = member_of(path)
    if member is None:
        return False
    if member.archive.suffix.lower() == ".tar":
        return member.name in tar_index(member.archive).files
    try:
        _cell(member)
    except OSError:
        return False
    return True


def open_file(path: Path) -> BinaryIO:
    """A file or a member of an archive, opened for reading and seeking. OSError in words when it cannot be."""
    member = member_of(path)
    if member is None:
        return path.open("rb")
    if member.archive.suffix.lower() == ".tar":
        place = tar_index(member.archive).files.get(member.name)
        if place is None:
            raise FileNotFoundError(errno.ENOENT, "the archive has no such member", str(path))
        return _Window(member.archive, *place)  # pyright: ignore[reportReturnType] - a raw binary file
    return _read_cell(*_cell(member))


def inner_name(path: Path) -> str | None:
    """What a member of an archive is called, as a posix path; None for an ordinary path."""
    member = member_of(path)
    if member is None or member.archive.suffix.lower() == ".tar":
        return member.name if member else None
    return member.name.split("/", 2)[-1]


# ---- tar ----


def tar_index(archive: Path) -> TarIndex:
    """What a tar holds. Of a broken one what stands before the damage. OSError when it cannot be opened."""
    return _tar_index(str(archive), *_stamp(archive))


@lru_cache(maxsize=256)
def _tar_index(archive: str, changed: int, length: int) -> TarIndex:
    files: dict[str, tuple[int, int]] = {}
    problems: list[tuple[str, str]] = []
    twice: set[str] = set()
    try:
        with tarfile.open(archive, "r:") as tar:
            for info in tar:
                name = "/".join(part for part in info.name.split("/") if part not in ("", "."))
                if info.isdir():
                    continue
                if problem := _wrong_with(info, length):
                    problems.append((name.encode(errors="replace").decode(), problem))
                elif name in files:
                    twice.add(name)
                else:
                    files[name] = (info.offset_data, info.size)
            end = tar.offset
        with open(archive, "rb") as file:  # noqa: PTH123 - tarfile stops at a damaged header without a word
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                problems.append(("", "the archive is cut off or damaged here: copy it again"))
    except tarfile.TarError as error:
        with open(archive, "rb") as file:  # noqa: PTH123
            packed = file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd"))
        reason = "it is compressed: unpack it to a plain tar" if packed else f"{error}: copy it again"
        problems.append(("", f"the archive cannot be read whole ({reason})"))
    for name in twice:
        del files[name]
        problems.append((name, "two members have this name"))
    return TarIndex(files, problems)


def _wrong_with(info: tarfile.TarInfo, length: int) -> str | None:
    if info.name.startswith("/") or ".." in info.name.split("/"):
        return "its name leads out of the archive"
    if not info.isreg() or info.issparse():
        return "it is no plain file but a link or the like"
    if info.offset_data + info.size > length:
        return "the archive is cut off in the middle of it: copy it again"
    try:
        info.name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return None


class _Window(io.RawIOBase):
    """The bytes of a file from `start` on, as a file of `size` bytes of its own."""

    def __init__(self, archive: Path, start: int, size: int):
        self.file = archive.open("rb", buffering=0)
        self.start, self.size, self.at = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "a place before the beginning")
        self.at = base + offset
        return self.at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self.size - self.at)]
        self.file.seek(self.start + self.at)
        count = self.file.readinto(view) or 0
        self.at += count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


# ---- Arrow and Parquet ----


class _Cell(NamedTuple):
    archive: Path
    column: str
    row: int


def _cell(member: Member) -> _Cell:
    """The cell of a table that a path means. FileNotFoundError when there is none."""
    column, _, rest = member.name.partition("/")
    row = rest.partition("/")[0]
    schema, starts = table_shape(member.archive)
    if column not in schema.names or not (row.isascii() and row.isdigit()) or int(row) >= starts[-1]:
        raise FileNotFoundError(errno.ENOENT, "the table has no such row of bytes", str(member.archive / member.name))
    return _Cell(member.archive, column, int(row))


def table_shape(archive: Path) -> "tuple[pa.Schema, list[int]]":
    """The columns of an Arrow or Parquet file, and where its parts begin: first rows, then the number of all rows."""
    schema, starts, _ = _table(str(archive), *_stamp(archive))
    return schema, starts


@lru_cache(maxsize=256)
def _table(archive: str, changed: int, length: int) -> "tuple[pa.Schema, list[int], Any]":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if archive.lower().endswith(".parquet"):
            parts = pq.read_metadata(archive)
            schema = parts.schema.to_arrow_schema()
            sizes = [parts.row_group(index).num_rows for index in range(parts.num_row_groups)]
        else:
            with pa.ipc.open_stream(pa.memory_map(archive)) as reader:  # the batches are views of the file
                schema, parts = reader.schema, list(reader)
            sizes = [batch.num_rows for batch in parts]
    except pa.ArrowException as error:
        raise OSError(errno.EIO, f"no table that can be read ({error}): copy it again", archive) from error
    return schema, list(accumulate(sizes, initial=0)), parts


def _read_cell(archive: Path, column: str, row: int) -> BinaryIO:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, starts, parts = _table(str(archive), *_stamp(archive))
    part = bisect_right(starts, row) - 1
    row -= starts[part]
    try:
        if archive.suffix.lower() == ".parquet":
            wanted = f"{column}.bytes" if pa.types.is_struct(schema.field(column).type) else column
            with pq.ParquetFile(archive, metadata=parts) as file:  # row by row, so that memory holds one clip
                batches = file.iter_batches(batch_size=1, row_groups=[part], columns=[wanted], use_threads=False)
                values = next(batch for index, batch in enumerate(batches) if index == row).column(0)
            value = values[0]
        else:
            value = parts[part].column(column)[row]
        if isinstance(value, pa.StructScalar):
            value = value["bytes"]
        return pa.BufferReader(value.as_buffer())  # pyright: ignore - a binary file
    except (pa.ArrowException, AttributeError, KeyError, StopIteration, TypeError) as error:
        name = str(archive / column / str(row))
        raise OSError(errno.EIO, f"the table holds no bytes there ({error})", name) from error


def _stamp(archive: Path) -> tuple[int, int]:
    """(time of change, length): a file that was replaced is read anew."""
    facts = archive.stat()
    return facts.st_mtime_ns, facts.st_size
