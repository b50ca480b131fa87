"""A data set encoded ahead of training: latents, embeddings and captions in one folder that `data prepare` writes.

    OUT/
      shards/*.tar       what was encoded; each shard says itself what it holds
      index.parquet      the same as one table: kind, key, shard, offset, size, SHA-256 of every sample
      clips.parquet      the data set: a row a clip with its captions, and what it was encoded with
      parts/             the frozen parts of the model, for previews and finished models
      verified.json      shards whose checksums were seen to be right, by size and time of change

`clips.parquet` is written last and in one piece: what it lists is whole. Samples are found by (kind, key, mark), and a
mark follows from everything that the tensors follow from, so that nothing old is taken for something new.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataError
from .clips import Clip, LeftOut, write_file
from .dataset import draw_caption, to_float
from .shards import Entry, ShardReader, damaged, find_damaged, scan

_PIECES = 16  # of 64 KiB, that a file's mark is made from
_INDEX = pa.schema(
    [
        *((name, pa.string()) for name in ("kind", "key", "mark", "shard", "sha256", "reason")),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("shape", pa.list_(pa.int32())),
    ]
)
_CLIPS = pa.schema(
    [
        ("id", pa.string()),
        ("file", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("mark", pa.string()),
        ("left_out", pa.string()),
    ]
)


@dataclass(frozen=True)
class Settings:
    """What latents and embeddings follow from, besides the clips themselves; the names are those of the options.

    Args:
        video: of the videos: codec, dtype, how they are sampled.
        text: of the texts: text encoder, dtype.
        shapes: which shape each clip has: frames and sizes, or buckets. A clip's own is in its mark.
        caption_prefix: put before every caption.
        image_latents: whether first frames were encoded by themselves too.
    """

    video: Mapping[str, Any]
    text: Mapping[str, Any]
    shapes: Mapping[str, Any]
    caption_prefix: str = ""
    image_latents: bool = False

    def video_mark(self, *of_clip: object) -> str:
        """Of a clip's video, from the settings and what is the clip's own."""
        return mark(sorted(self.video.items()), *of_clip)

    @property
    def text_mark(self) -> str:
        """Of the texts."""
        return mark(sorted(self.text.items()))

    def changes(self, prepared: "Settings") -> list[str]:
        """How settings that were prepared with differ from these, in words."""
        own, old = ({**s.shapes, **s.video, **s.text, "caption_prefix": s.caption_prefix} for s in (self, prepared))
        return [
            f"the files of the {name.removesuffix('_content')} are others"
            if name.endswith("_content") and own[name] and old[name]
            else f"{name} is {own[name]!r}, prepared was {old[name]!r}"
            for name in own
            if name in old and own[name] != old[name]  # only one has sizes where one has buckets
        ]


def mark(*parts: object) -> str:
    """32 hexadecimal digits that are the same for equal parts on every machine."""
    return blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def content_mark(*paths: Path) -> str:
    """Of the content of files, from their sizes and pieces of them: quick for any size, the same wherever they lie."""
    digest = blake2b(digest_size=16)
    for path in paths:
        size, piece = path.stat().st_size, 1 << 16
        digest.update(f"{path.name if len(paths) > 1 else ''} {size}\n".encode("utf-8", "surrogatepass"))
        with path.open("rb") as file:
            if size <= _PIECES * piece:
                digest.update(file.read())
                continue
            for number in range(_PIECES):
                file.seek((size - piece) * number // (_PIECES - 1))
                digest.update(file.read(piece))
    return digest.hexdigest()


@dataclass
class Cache:
    """What a folder holds.

    Args:
        folder: of `data prepare`.
        settings: that it was encoded with.
        clips: in the order of the data set; their files may be gone.
        marks: of each clip's video.
        left_out: the clips that could not be encoded.
        entries: every sample, by (kind, key, mark).
    """

    folder: Path
    settings: Settings
    clips: list[Clip]
    marks: list[str]
    left_out: list[LeftOut]
    entries: dict[tuple[str, str, str], Entry]

    def __post_init__(self) -> None:
        self.reader = ShardReader(self.folder / "shards")
        self._text_mark = self.settings.text_mark

    @classmethod
    def open(cls, folder: str | Path) -> "Cache":
        """Reads the tables of a finished folder.

        Raises:
            DataError: it holds no finished data set.
        """
        folder = Path(folder)
        if not (folder / "clips.parquet").is_file():
            begun = (folder / "shards").is_dir()
            raise DataError(
                f"{folder} holds no prepared data set: "
                + ("`data prepare` did not come to its end. Give its command again, and it goes on." if begun else "")
                + ("" if begun else "there is no clips.parquet. Write one with `text2video data prepare DATA OUT`.")
            )
        table = pq.read_table(folder / "clips.parquet")
        try:
            told = json.loads((table.schema.metadata or {})[b"settings"])
            settings = Settings(**told)
        except (KeyError, ValueError, TypeError):
            raise DataError(f"{folder / 'clips.parquet'} was not written by `text2video data prepare`.") from None
        clips, marks, left_out = [], [], []
        for row in table.to_pylist():
            if row["left_out"]:
                left_out.append(LeftOut(row["id"], row["left_out"]))
            else:
                path = Path(row["file"])
                clips.append(Clip(row["id"], path, tuple(row["captions"]), row["start"], row["end"]))
                marks.append(row["mark"])
        return cls(folder, settings, clips, marks, left_out, read_entries(folder))

    def save(self) -> None:
        """Writes both tables; the data set changes from its old to its new state in one moment."""
        write_index(self.folder, self.entries)
        rows = [
            {
                "id": clip.id,
                "file": clip.path.as_posix(),
                "captions": list(clip.captions),
                "start": clip.start,
                "end": clip.end,
                "mark": of_video,
            }
            for clip, of_video in zip(self.clips, self.marks, strict=True)
        ]
        rows += [{"id": id, "left_out": reason} for id, reason in self.left_out]
        schema = _CLIPS.with_metadata({"settings": json.dumps(asdict(self.settings), ensure_ascii=False)})
        write_table(self.folder / "clips.parquet", rows, schema)

    def entry(self, kind: str, key: str, of: str) -> Entry:
        """The sample of that kind, key and mark.

        Raises:
            DataError: there is none.
        """
        try:
            return self.entries[kind, key, of]
        except KeyError:
            raise DataError(
                f"There is no {kind} of {key!r:.80} in {self.folder}. Give the same `text2video data prepare` again."
            ) from None

    def embedding(self, text: str) -> dict[str, Tensor]:
        """What a frozen text encoder made of a caption with its prefix, or of the empty caption, by name."""
        stored = self.reader.read(self.entry("text", text, self._text_mark))
        return {name: value.float() if value.is_floating_point() else value for name, value in stored.items()}

    def video(self, index: int) -> dict[str, Tensor]:
        """Clip `index`: `mean` and `logvar` `[C, t, h, w]`, or `pixels` `[3, T, H, W]`; and any `condition.NAME`."""
        return self.reader.read(self.entry("video", self.clips[index].id, self.marks[index]))

    def image(self, index: int) -> dict[str, Tensor]:
        """The same of the first frame of clip `index`, encoded by itself: `--save_image_latents`."""
        return self.reader.read(self.entry("image", self.clips[index].id, self.marks[index]))

    def current(self) -> list[Entry]:
        """The samples that the data set uses now."""
        kinds = ("video", "image") if self.settings.image_latents else ("video",)
        of_clips = [
            self.entry(kind, clip.id, of) for clip, of in zip(self.clips, self.marks, strict=True) for kind in kinds
        ]
        return of_clips + [e for e in self.entries.values() if e.kind == "text" and e.mark == self._text_mark]

    def verify(self) -> None:
        """Compares every sample in use with its checksum, once: a shard that has not changed since is not read again.

        Raises:
            DataError: something is damaged or missing.
        """
        current = self.current()
        used = {entry.shard for entry in current}
        bad = unverified(self.folder, (entry for entry in self.entries.values() if entry.shard in used))
        for entry in set(bad) & set(current):
            raise damaged(entry)


def read_entries(folder: Path) -> dict[tuple[str, str, str], Entry]:
    """Every sample in the shards of a folder: from its index, and of shards younger than that from themselves."""
    path = folder / "index.parquet"
    rows = pq.read_table(path).to_pylist() if path.is_file() else []
    entries = [Entry(**row | {"shape": tuple(row["shape"])}) for row in rows]
    there = {path.name for path in (folder / "shards").glob("*.tar")}
    known = {entry.shard for entry in entries}
    entries = [entry for entry in entries if entry.shard in there]
    for name in sorted(there - known):
        entries += scan(folder / "shards" / name)[0]
    return {(entry.kind, entry.key, entry.mark): entry for entry in entries}


def write_index(folder: Path, entries: Mapping[tuple[str, str, str], Entry]) -> None:
    """Writes the table of all samples."""
    write_table(folder / "index.parquet", map(asdict, entries.values()), _INDEX)


def unverified(folder: Path, entries: Iterable[Entry]) -> list[Entry]:
    """The samples that do not agree with their checksums. Shards found right are remembered in `verified.json`."""
    path = folder / "verified.json"
    try:
        verified = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        verified = {}
    by_shard: dict[str, list[Entry]] = {}
    for entry in entries:
        by_shard.setdefault(entry.shard, []).append(entry)

    def look(shard: str) -> tuple[list[int], list[Entry]]:
        file = folder / "shards" / shard
        state = [file.stat().st_size, file.stat().st_mtime_ns] if file.is_file() else []
        same = bool(state) and verified.get(shard) == state
        return state, [] if same else find_damaged(file, by_shard[shard])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looked = dict(zip(by_shard, pool.map(look, by_shard), strict=True))
    right = {shard: state for shard, (state, bad) in looked.items() if not bad}
    if right != verified:
        write_file(path, json.dumps(right, indent=0) + "\n")
    return [entry for _, bad in looked.values() for entry in bad]


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Writes a Parquet file whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink)
    write_file(path, sink.getvalue().to_pybytes())


class CachedDataset(Dataset[dict[str, Any]]):
    """Clips of a cache for training, with the items and the order of `TextVideoDataset`.

    An item has `mean` and mostly `logvar` in place of `video`, where a codec was at work; else `video` in levels where
    that loses nothing. What was stored of first frames is there as `image_mean` and the like.

    Args:
        cache: an open one.
        indices: which of its clips.
        seed: of the draw of one of a clip's captions.
    """

    def __init__(self, cache: Cache, indices: Sequence[int], seed: int = 0):
        self.cache, self.indices, self.seed = cache, list(indices), seed

    @property
    def ids(self) -> list[str]:
        """The clips' ids, by index."""
        return [self.cache.clips[number].id for number in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def shape(self, index: int) -> tuple[int, int, int]:
        """(frames, height, width) of the video that was encoded."""
        number = self.indices[index]
        frames, height, width = self.cache.entry("video", self.cache.clips[number].id, self.cache.marks[number]).shape
        return frames, height, width

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        number = self.indices[index]
        clip, tensors = self.cache.clips[number], self.cache.video(number)
        if "pixels" in tensors:
            tensors["video"] = tensors.pop("pixels")  # as `TextVideoDataset` with `as_levels`
        conditions = {name: tensors.pop(name) for name in list(tensors) if name.startswith("condition.")}
        caption = f"{self.cache.settings.caption_prefix} {draw_caption(clip, self.seed, epoch)}".strip()
        conditions = {name.removeprefix("condition."): value for name, value in conditions.items()}
        if self.cache.settings.image_latents:
            tensors |= {f"image_{name}": value for name, value in self.cache.image(number).items()}
        return {**tensors, "caption": caption, "id": clip.id, "conditions": conditions}


def to_pixels(video: Tensor) -> Tensor:
    """Frames in [-1, 1] as uint8, where that loses nothing, else as they are. `to_float` undoes it exactly."""
    levels = ((video + 1) * 127.5).round().to(torch.uint8)
    return levels if torch.equal(to_float(levels), video) else video
