"""The folder that `data prepare` fills: whose it is, who may write, what room it needs, what was left there."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..data.cache import read_entries, unverified, write_index
from ..data.clips import write_file
from ..data.shards import recover
from ..errors import DataError
from ..models.codecs import latent_bytes, open_codec
from ..models.text import TextEncoder
from .encoding import Job, Work, open_dataset

logger = logging.getLogger("text2video")

_MARKER = "prepared.json"
_OVERHEAD = 4096  # bytes of a sample besides its tensors: headers, padding, its JSON
_LETTERS = 3  # of a caption for each token, about
_PADDED = 226  # tokens that pretrained families store of a caption, about: CogVideoX's number


@contextmanager
def locked(out: Path, main: bool) -> Iterator[None]:
    """Within, no other `data prepare` works in the folder, which is made. The lock goes with its process.

    Args:
        main: whether this process takes the lock, for all of its run.

    Raises:
        DataError: the folder is something else's, or another process works in it.
    """
    if not main:
        yield
        return
    # hidden files are the lock, and what a kill may leave before the marker is there
    strange = out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir())
    if out.is_file() or (strange and not (out / _MARKER).is_file()):
        raise DataError(
            f"{out} holds something else than prepared data, and nothing of that is to be lost. Give a new folder."
        )
    lock = FileLock(out / ".lock")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        write_file(out / _MARKER, json.dumps({"format": "text2video prepared data", "version": 1}) + "\n")
        (out / "shards").mkdir(exist_ok=True)
    except Timeout:
        raise DataError(f"Another `data prepare` is writing into {out}. Wait until it is done.") from None
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error}. Give another folder.") from None
    try:
        yield
    finally:
        lock.release()


def tidy(out: Path) -> None:
    """Makes what a kill left behind whole, and forgets samples that do not agree with their checksums."""
    recover(out / "shards")
    entries = read_entries(out)
    bad = unverified(out, entries.values())
    if not bad:
        return
    for entry in bad:
        del entries[entry.kind, entry.key, entry.mark]
        logger.info("the %s of %.80r is damaged or gone, and encoded anew", entry.kind, entry.key)
    write_index(out, entries)
    for shard in {entry.shard for entry in bad} - {entry.shard for entry in entries.values()}:
        (out / "shards" / shard).unlink(missing_ok=True)


def check_room(job: Job, work: Work) -> None:
    """Says how much disk the work needs, and how much there is.

    Raises:
        DataError: there is less.
    """
    geometry, number = job.frozen.geometry, job.dtype.itemsize
    needed = 0
    if work.clips:
        dataset = open_dataset(job, [todo.clip for todo in work.clips])
        for index, todo in enumerate(work.clips):
            frames, *size = dataset.shape(index)
            shapes = [(frames, *size)] * todo.video + [(1, *size)] * todo.image
            needed += sum(latent_bytes(geometry, shape, number) + _OVERHEAD for shape in shapes)
    if work.texts:
        width = job.frozen.text_width
        padded = _PADDED if job.frozen.model else 0
        tokens = (max(len(text) // _LETTERS + 3, padded) for text in work.texts)
        needed += sum(count * width * number + _OVERHEAD for count in tokens)
    free = shutil.disk_usage(job.out).free
    if work:
        logger.info("about %s of disk are needed, %s are free", in_words(needed), in_words(free))
    if needed > free:
        raise DataError(
            f"{job.out} needs about {in_words(needed)} of disk, and {in_words(free)} are free. Make room, choose a "
            "folder on another disk, or store half as much with --dtype bfloat16."
        )


def in_words(size: float) -> str:
    """Bytes as `2.50 GB` or `310.0 MB`."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def save_parts(job: Job) -> None:
    """Copies the frozen parts into the folder, so that runs need nothing else but the model that they start from."""
    if job.frozen.model is not None:
        return
    parts, marks = job.out / "parts", json.dumps(job.frozen.marks(), sort_keys=True)
    marker = parts / "marks.json"
    if marker.is_file() and marker.read_text(encoding="utf-8") == marks:
        return
    beside = job.out / "tmp-parts"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    if job.frozen.codec is not None:
        open_codec(job.frozen.codec).save_pretrained(beside / "vae")
    if job.frozen.text is not None:
        encoder = TextEncoder.open(job.frozen.text)
        encoder.model.save_pretrained(beside / "text_encoder")  # pyright: ignore[reportCallIssue]
        encoder.tokenizer.save_pretrained(beside / "tokenizer")
    (beside / marker.name).write_text(marks, encoding="utf-8")
    shutil.rmtree(parts, ignore_errors=True)
    beside.rename(parts)
