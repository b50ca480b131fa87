"""Tensors in plain tar files that WebDataset reads too, written so that a kill at any moment loses one sample at most.

A sample is two members, `00000000.safetensors` with its tensors and then `00000000.json`, which says what they are and
their SHA-256. A shard is `NAME.part` while it is written and `NAME.tar` when it is whole. What a kill leaves behind is
cut after its last whole sample, by `recover`, before anybody reads it.
"""

import errno
import hashlib
import json
import mmap
import os
import secrets
import tarfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..errors import DataError

SHARD_BYTES = 512_000_000
_BLOCK = tarfile.BLOCKSIZE
_OPEN = 64  # shards that are mapped at a time
_DTYPES = {
    **{"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64},
    **{"U8": torch.uint8, "I64": torch.int64, "I32": torch.int32, "BOOL": torch.bool},
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a sample's tensors lie, and what they are.

    Args:
        kind: "video", "image", "text", or "left_out" for a clip that could not be encoded.
        key: the clip's id; of a text, the text itself.
        mark: of everything that the tensors follow from; equal marks mean equal tensors.
        shard: file name.
        offset, size: of the safetensors member's content in the shard, in bytes.
        sha256: of that content.
        shape: (frames, height, width) of the video before encoding; empty for texts.
        reason: why a clip was left out.
    """

    kind: str
    key: str
    mark: str
    shard: str
    offset: int
    size: int
    sha256: str
    shape: tuple[int, ...] = ()
    reason: str = ""


class ShardWriter:
    """Writes samples into new shards of a folder.

    Args:
        folder: which is there.
        name: that its shards begin with. What follows is drawn, so that no two writers ever use the same name, not
            even one after another.
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self._path: Path | None = None
        self._samples, self._bytes = 0, 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(
        self,
        kind: str,
        key: str,
        mark: str,
        tensors: Mapping[str, Tensor],
        shape: tuple[int, ...] = (),
        reason: str = "",
    ) -> None:
        """Writes one sample; when this returns, a kill does not lose it.

        Raises:
            DataError: the disk is full or refuses.
        """
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        told = {"kind": kind, "key": key, "mark": mark, "sha256": hashlib.sha256(content).hexdigest()}
        told |= {"shape": list(shape)} if shape else {}
        told |= {"reason": reason} if reason else {}
        try:
            if self._path is None:
                self._path, self._samples, self._bytes = self.folder / f"{self.name}-{secrets.token_hex(5)}.part", 0, 0
            number = f"{self._samples:08d}"
            data = _member(f"{number}.safetensors", content)
            data += _member(f"{number}.json", json.dumps(told, ensure_ascii=False).encode())
            with self._path.open("ab") as file:
                file.write(data)
        except OSError as error:
            raise _refused(self.folder, error) from None
        self._samples, self._bytes = self._samples + 1, self._bytes + len(data)
        if self._bytes >= SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """Makes the shard that is being written whole; the next sample begins a new one."""
        if self._path is not None:
            path, self._path = self._path, None
            try:
                _finish(path)
            except OSError as error:
                raise _refused(self.folder, error) from None


def _member(name: str, content: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % _BLOCK)


def _finish(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(2 * _BLOCK))  # the end of an archive
        file.flush()
        os.fsync(file.fileno())
    path.replace(path.with_suffix(".tar"))


def _refused(folder: Path, error: OSError) -> DataError:
    what = "the disk is full" if error.errno == errno.ENOSPC else str(error)
    return DataError(
        f"{folder} could not be written: {what}. What was encoded before is whole: make room, then give the same "
        "command again, and it goes on."
    )


def recover(folder: Path) -> None:
    """Makes shards whole that a kill left unfinished: each is cut after its last whole sample.

    No process may be writing into the folder.
    """
    for path in sorted(folder.glob("*.part")):
        entries, end = scan(path, verify=True)
        if entries:
            os.truncate(path, end)
            _finish(path)
        else:
            path.unlink()


def scan(path: Path, verify: bool = False) -> tuple[list[Entry], int]:
    """The whole samples of a shard, from the front up to the first that is not whole, and where the last one ends.

    Args:
        verify: whether a sample's content must agree with its checksum to be whole.
    """
    entries: list[Entry] = []
    end = position = 0
    tensors: tuple[int, int] | None = None
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        while True:
            file.seek(position)
            try:
                info = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "strict")
            except tarfile.HeaderError:  # the end, or where the writer was killed
                return entries, end
            content = position + _BLOCK
            position = content + info.size + -info.size % _BLOCK
            if position > length:
                return entries, end
            if info.name.endswith(".safetensors"):
                tensors = content, info.size
                continue
            try:
                told = json.loads(file.read(info.size))
                offset, size = tensors or (0, 0)
                row = told | {"shape": tuple(told.get("shape", ()))}
                entry = Entry(shard=path.with_suffix(".tar").name, offset=offset, size=size, **row)
            except (ValueError, TypeError):
                return entries, end
            if verify:
                file.seek(offset)
                if hashlib.sha256(file.read(size)).hexdigest() != entry.sha256:
                    return entries, end
            entries.append(entry)
            end, tensors = position, None


def find_damaged(path: Path, entries: Sequence[Entry]) -> list[Entry]:
    """Those of a shard's samples that are not there, or do not agree with their checksums."""
    bad = []
    try:
        with path.open("rb") as file:
            for entry in sorted(entries, key=lambda entry: entry.offset):
                file.seek(entry.offset)
                if hashlib.sha256(file.read(entry.size)).hexdigest() != entry.sha256:
                    bad.append(entry)
    except OSError:
        return list(entries)
    return bad


@lru_cache(maxsize=256)
def _tensors(header: bytes) -> list[tuple[str, torch.dtype, list[int], int, int]]:
    """Name, dtype, shape, first and last byte of each tensor of a safetensors header; clips of one shape share one."""
    return [
        (name, _DTYPES[told["dtype"]], told["shape"], *told["data_offsets"])
        for name, told in json.loads(header).items()
        if name != "__metadata__"
    ]


class ShardReader:
    """Reads samples out of mapped shards. Each process maps them for itself; it can be sent to another process.

    Args:
        folder: of the shards.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._maps: OrderedDict[str, mmap.mmap] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_maps": OrderedDict()}

    def read(self, entry: Entry) -> dict[str, Tensor]:
        """The tensors of a sample, copied out of the map.

        Raises:
            DataError: the shard is missing or shorter than it was.
        """
        content = memoryview(self._map(entry.shard))[entry.offset : entry.offset + entry.size]
        if len(content) < entry.size:
            raise damaged(entry)
        start = 8 + int.from_bytes(content[:8], "little")
        held = torch.empty(0, dtype=torch.uint8)
        if start < len(content):  # one copy for all tensors, which share it
            held = torch.frombuffer(content[start:], dtype=torch.uint8).clone()
        return {
            name: held[first:last].view(dtype).view(shape)
            for name, dtype, shape, first, last in _tensors(bytes(content[8:start]))
        }

    def _map(self, shard: str) -> mmap.mmap:
        if shard not in self._maps:
            try:
                with (self.folder / shard).open("rb") as file:
                    # a private map: torch wants memory that can be written, and nothing written reaches the file
                    self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            except (OSError, ValueError):  # missing, or empty
                raise DataError(
                    f"{self.folder / shard} is missing or cannot be read. Give the same `text2video data prepare` "
                    "again: it encodes anew what is not there."
                ) from None
            while len(self._maps) > _OPEN:
                self._maps.popitem(last=False)  # it is closed when nobody reads from it any more
        self._maps.move_to_end(shard)
        return self._maps[shard]


def damaged(entry: Entry) -> DataError:
    """What is said of a sample that does not agree with its checksum."""
    return DataError(
        f"The {entry.kind} of {entry.key!r:.80} in {entry.shard} is damaged: it does not agree with its checksum. Give "
        "the same `text2video data prepare` again: it encodes anew what is damaged."
    )
