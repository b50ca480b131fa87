"""Writes clips into archives: tar shards as WebDataset reads them, and Parquet files as `datasets` reads them."""

import json
import tarfile
from collections.abc import Iterable
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..video import open_file
from .clips import Clip, clean_caption

SHARD_BYTES = 1_000_000_000  # a new file begins when one has grown to this
GROUP_BYTES = 32_000_000  # of a row group: what has to be read for one clip
Files = list[tuple[Path, str, list[Clip]]]  # a file, its name in the archive, and the clips that are in it


def write_webdataset(folder: Path, files: Files) -> None:
    """`000000.tar` and so on: `KEY.mp4`, `KEY.txt` with the first caption, and `KEY.json` where that is not all.

    A key ends at the first dot, so that a dot in the name of a file is written as %2E. Equal clips make equal bytes.
    """
    folder.mkdir()
    with ExitStack() as stack:
        tar, number = None, 0
        for path, name, clips in files:
            if tar is None or tar.offset >= SHARD_BYTES:
                stack.close()
                opened = tarfile.open(folder / f"{number:06d}.tar", "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
                tar, number = stack.enter_context(opened), number + 1
            place = PurePosixPath(name)
            key = str(place.with_name(place.stem.replace("%", "%25").replace(".", "%2E")))
            with open_file(path) as file:
                size = file.seek(0, 2) or file.tell()  # an Arrow buffer does not return where it is
                file.seek(0)
                _add(tar, key + place.suffix, size, file)
            for kind, text in _texts(clips).items():
                _add(tar, f"{key}.{kind}", len(text), BytesIO(text))


def _add(tar: tarfile.TarFile, name: str, size: int, file: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    tar.addfile(info, file)


def _texts(clips: list[Clip]) -> dict[str, bytes]:
    captions = [[clean_caption(caption) for caption in clip.captions] for clip in clips]
    texts = {"txt": captions[0][0].encode()}
    if any(clip.source != clip.id for clip in clips):
        rows = [
            {"caption": several, "start": clip.start, "end": clip.end}
            for clip, several in zip(clips, captions, strict=True)
        ]
        texts["json"] = json.dumps({"clips": rows}, ensure_ascii=False).encode()
    elif len(captions[0]) > 1:
        texts["json"] = json.dumps({"caption": captions[0]}, ensure_ascii=False).encode()
    return texts


def write_huggingface(folder: Path, files: Files) -> None:
    """`train-00000-of-00001.parquet` and so on, with columns `video` of {bytes, path} and `caption`.

    Captions are texts, or lists of texts where a clip has several. Row groups are small: one is read for one clip.
    """
    folder.mkdir()
    several = any(len(clip.captions) > 1 for _, _, clips in files for clip in clips)
    caption = pa.list_(pa.string()) if several else pa.string()
    schema = pa.schema(
        [("video", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("caption", caption)],
        metadata={"huggingface": json.dumps({"info": {"features": _features(several)}})},
    )
    parts: list[Path] = []
    with ExitStack() as stack:
        writer, size = None, 0
        for group in _groups(files):
            if writer is None or size >= SHARD_BYTES:
                stack.close()
                parts.append(folder / f"{len(parts)}.part")
                opened = pq.ParquetWriter(parts[-1], schema, compression="none", use_dictionary=False)
                writer, size = stack.enter_context(opened), 0
            rows = []
            for path, name, clips in group:
                with open_file(path) as file:
                    content = file.read()
                size += len(content)
                captions = [clean_caption(text) for text in clips[0].captions]
                rows.append(
                    {"video": {"bytes": content, "path": name}, "caption": captions if several else captions[0]}
                )
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    for number, part in enumerate(parts):
        part.rename(folder / f"train-{number:05d}-of-{len(parts):05d}.parquet")


def _features(several: bool) -> dict[str, Any]:
    text = {"dtype": "string", "_type": "Value"}
    return {"video": {"_type": "Video"}, "caption": {"feature": text, "_type": "List"} if several else text}


def _groups(files: Files) -> Iterable[Files]:
    """Files in stretches of at most `GROUP_BYTES`, or of one larger file."""
    group: Files = []
    filled = 0
    for entry in files:
        with open_file(entry[0]) as file:
            size = file.seek(0, 2) or file.tell()
        if group and (filled + size > GROUP_BYTES or len(group) >= 100):
            yield group
            group, filled = [], 0
        group.append(entry)
        filled += size
    if group:
        yield group
