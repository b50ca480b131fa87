"""WebDataset: tar shards, in which files of one key belong together: `000017.mp4` with `000017.txt` or `000017.json`.

A key is a member's name up to the first dot after its last slash. Clips stay inside their tar: a clip's path leads into
it, and `video` opens it there.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from ...video import PICTURES
from ...video.members import open_file, tar_index
from ..clips import VIDEOS, Manifest, clip_id
from ..tables import Pairs
from .columns import CAPTION_COLUMNS, find_column
from .gather import Gather, scan

_TEXTS = ("txt", "caption", "text", "prompt")


def find_shards(root: Path) -> list[Path]:
    """The tar files below a folder."""
    packed = scan(root, frozenset((".tar", ".tgz", ".gz")))  # compressed ones are named, not read
    return [path for name, path in packed.items() if name.lower().endswith((".tar", ".tgz", ".tar.gz"))]


def read_webdataset(root: Path, shards: list[Path], caption_column: str | None = None) -> Manifest:
    """The clips in tar shards.

    The caption is in `KEY.json` (a text or a list of texts, by a usual name or `caption_column`), else the whole of
    `KEY.txt`. `start` and `end` in the JSON make it a stretch; {"clips": [...]} in it are several clips of one file.
    """
    gather = Gather(root, "webdataset")
    for shard in shards:
        _read_shard(gather, shard, caption_column)
    return gather.manifest()


def _read_shard(gather: Gather, shard: Path, caption_column: str | None) -> None:
    place = clip_id(shard.relative_to(gather.root).as_posix())
    try:
        files, problems = tar_index(shard)
    except OSError as error:
        gather.leave(place, f"the archive cannot be opened: {error.strerror or error}")
        return
    for name, problem in problems:
        gather.leave(f"{place}/{name}".rstrip("/"), problem)
    samples: dict[str, dict[str, str]] = {}
    for name in files:
        folder, slash, base = name.rpartition("/")
        if not base.startswith("."):
            key, _, kind = base.partition(".")
            samples.setdefault(f"{folder}{slash}{key}", {})[kind] = name
    for sample in samples.values():
        _read_sample(gather, shard, place, sample, caption_column)


def _read_sample(gather: Gather, shard: Path, place: str, sample: dict[str, str], caption_column: str | None) -> None:
    """One key's files, by what follows the first dot of their names."""
    media = [name for name in sample.values() if PurePosixPath(name).suffix.lower() in VIDEOS]
    media = media or [name for name in sample.values() if PurePosixPath(name).suffix.lower() in PICTURES]
    texts = (*((caption_column,) if caption_column else ()), *_TEXTS)
    if not media:
        if any(kind in sample for kind in (*texts, "json")):
            gather.leave(f"{place}/{next(iter(sample.values()))}", "a caption without a video")
        return
    for name in media:
        id = clip_id(f"{place}/{name}")
        if len(media) > 1:
            gather.leave(id, f"{len(media)} videos have this key, so that none has the caption for sure")
            continue
        try:
            rows = _rows(shard, sample, texts, caption_column)
        except (OSError, ValueError, RecursionError) as error:
            gather.leave(id, f"its caption cannot be read ({error})")
            continue
        for row in rows:
            gather.take_row(shard / name, row["caption"], place, row)


def _rows(shard: Path, sample: dict[str, str], texts: tuple[str, ...], caption_column: str | None) -> list[dict]:
    """The captions of a sample, with their stretches. Raises ValueError for what is no UTF-8 or no JSON."""
    if "json" in sample:
        content = json.loads(_read(shard, sample["json"]), object_pairs_hook=Pairs)
        if isinstance(content, Pairs):
            rows = dict(content).get("clips")
            found = [_row(entry, caption_column) for entry in (rows if isinstance(rows, list) else [content])]
            if any(row["caption"] is not None for row in found):
                return found
    named = [kind for kind in texts if kind in sample]
    return [{"caption": _read(shard, sample[named[0]]) if named else None}]


def _row(entry: Any, caption_column: str | None) -> dict[str, Any]:
    values = dict(entry) if isinstance(entry, Pairs) else {}
    column = find_column(list(values), caption_column, CAPTION_COLUMNS)
    return {"caption": values.get(column) if column else None, "start": values.get("start"), "end": values.get("end")}


def _read(shard: Path, name: str) -> str:
    with open_file(shard / name) as file:
        return file.read().decode("utf-8-sig")
