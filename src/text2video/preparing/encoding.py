"""Encoding one clip and one caption, the same whichever process does it, and one process's part of the work."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import RunConfig
from ..data.cache import Settings, to_pixels
from ..data.check_cache import cache_file
from ..data.checks import check
from ..data.clips import Clip, Manifest, stable_hash
from ..data.dataset import TextVideoDataset
from ..data.shards import ShardWriter
from ..errors import DataError
from ..families.base import Opening
from ..families.frozen import Frozen
from ..families.imports import construct, import_class
from ..families.opening import family_of, model_folder, own_dtype
from ..models.codecs import encode, open_codec
from ..models.text import TextEncoder
from ..sizes import Bucket

_CHECKED = 64  # clips whose files are looked at together, before they are encoded


@dataclass(frozen=True)
class Job:
    """What a data set is encoded with, and where to.

    Args:
        config: of a run that will train on it.
        frozen: the parts that encode.
        settings: what the result follows from.
        root: of the data set.
        out: the folder.
        dtype: that latents and embeddings are stored in.
        buckets: of each clip, by id, where the clips have several; each of these has been looked at.
    """

    config: RunConfig
    frozen: Frozen
    settings: Settings
    root: Path
    out: Path
    dtype: torch.dtype
    buckets: Mapping[str, Bucket] = field(default_factory=dict)

    @property
    def shards(self) -> Path:
        """Where samples are written."""
        return self.out / "shards"


@dataclass(frozen=True)
class Todo:
    """A clip that is to be encoded: what of it, and the mark of the result."""

    clip: Clip
    mark: str
    video: bool
    image: bool


@dataclass(frozen=True)
class Work:
    """What there is to encode."""

    clips: Sequence[Todo]
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.clips) + len(self.texts)

    def part(self, number: int, parts: int) -> "Work":
        """The share of one of several processes, by clip id and text alone."""
        return Work(
            [todo for todo in self.clips if stable_hash("part", todo.clip.id) % parts == number],
            [text for text in self.texts if stable_hash("part", text) % parts == number],
        )


class Encoder:
    """The frozen parts that the configuration names, on a device.

    Args:
        job: of which the parts are opened when they are first needed.
        device: where they work.
    """

    def __init__(self, job: Job, device: torch.device):
        self.job, self.device = job, device
        self._vae: Any = None
        self._text: TextEncoder | None = None

    @staticmethod
    def of(job: Job, device: torch.device) -> "Encoder":
        """The one that a job needs."""
        return FamilyEncoder(job, device) if job.frozen.model else Encoder(job, device)

    def video(self, video: Tensor) -> dict[str, Tensor]:
        """`[3, T, H, W]` in [-1, 1] -> `mean` and `logvar` `[C, t, h, w]`, or `pixels` `[3, T, H, W]`."""
        if self.job.frozen.codec is None:
            return {"pixels": to_pixels(video)}
        if self._vae is None:
            self._vae = open_codec(self.job.frozen.codec).to(self.device)
        with _steady(self.device):
            return self._stored(encode(self._vae, video[None].to(self.device)).named())

    def image(self, video: Tensor) -> dict[str, Tensor]:
        """`[3, T, H, W]` in [-1, 1] -> the same of its first frame alone."""
        return self.video(video[:, :1])

    def text(self, text: str) -> dict[str, Tensor]:
        """A caption -> `hidden` `[L, D]`."""
        if self._text is None:
            assert self.job.frozen.text is not None
            self._text = TextEncoder.open(self.job.frozen.text)
            self._text.model.to(self.device)  # pyright: ignore[reportArgumentType] - transformers' own signature
        with _steady(self.device):
            return self._stored({"hidden": self._text.read(text)})

    def _stored(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """On the CPU, numbers in the job's precision; masks and the like stay what they are."""
        return {
            name: value.to("cpu", self.job.dtype if value.is_floating_point() else value.dtype)
            for name, value in tensors.items()
        }


class FamilyEncoder(Encoder):
    """A pretrained family's own parts. Those for words and those for pictures are never in memory together."""

    def __init__(self, job: Job, device: torch.device):
        super().__init__(job, device)
        assert job.frozen.model is not None
        self.family = family_of(job.frozen.model)
        self._words = tuple(name for name in self.family.frozen if name.startswith("text_encoder"))
        self._open: tuple[tuple[str, ...], Any] = ((), None)

    def _without(self, names: tuple[str, ...]) -> Any:
        if self._open[1] is None or self._open[0] != names:
            self._open = ((), None)  # the other parts leave memory first
            opening = Opening(without=(*self.family.denoiser_names, *names))
            dtype, folder = own_dtype(self.family, self.device), model_folder(self.job.frozen.model or "")
            self._open = (names, self.family.open(folder, self.device, dtype, opening=opening))
        return self._open[1]

    def video(self, video: Tensor) -> dict[str, Tensor]:
        """`[3, T, H, W]` in [-1, 1] -> `mean` and, where there is one, `logvar` `[C, t, h, w]`."""
        pipe = self._without(self._words)
        with _steady(self.device), torch.no_grad():
            return self._stored(self.family.encode_video(pipe, video[None].to(self.device)).named())

    def image(self, video: Tensor) -> dict[str, Tensor]:
        """`[3, T, H, W]` in [-1, 1] -> what the family stores of its first frame."""
        pipe = self._without(self._words)
        with _steady(self.device), torch.no_grad():
            return self._stored(self.family.encode_image(pipe, video[None].to(self.device)))

    def text(self, text: str) -> dict[str, Tensor]:
        """A caption -> what the family's denoiser is told of it."""
        pipe = self._without(tuple(name for name in self.family.frozen if name not in self._words))
        with _steady(self.device), torch.no_grad():
            return self._stored(self.family.embed(pipe, text))


def open_dataset(job: Job, clips: Sequence[Clip]) -> TextVideoDataset:
    """Clips as a run would see them, except that nothing is drawn anew each epoch."""
    data = job.config.data
    kind = import_class(data.dataset_class) if data.dataset_class else TextVideoDataset
    bucketed = {"buckets": [job.buckets[clip.id] for clip in clips]} if job.buckets else {}
    return construct(
        kind,
        list(clips),
        **data.sampling,
        seed=job.config.seed,
        caption_prefix=data.caption_prefix,
        random_window=False,
        cache_gb=0.0,
        **bucketed,
    )


def encode_part(
    job: Job,
    work: Work,
    device: torch.device,
    check_workers: int | None = None,
    on_done: Callable[[int], None] = lambda done: None,
) -> None:
    """Encodes texts and clips into shards; `on_done` is called with how many of them are done.

    A clip that cannot be read is written down with its reason, and stops nothing.

    Args:
        check_workers: processes that look at files before they are decoded; None: one a core.

    Raises:
        DataError: the disk is full.
    """
    encoder, done = Encoder.of(job, device), 0
    with ShardWriter(job.shards, "data") as writer:
        for text in work.texts:
            writer.add("text", text, job.settings.text_mark, encoder.text(text))
            on_done(done := done + 1)
        for first in range(0, len(work.clips), _CHECKED):
            for todo, item in readable(job, work.clips[first : first + _CHECKED], check_workers):
                write(writer, encoder, todo, item)
                on_done(done := done + 1)


@contextmanager
def _steady(device: torch.device) -> Iterator[None]:
    """One thread on a CPU: sums shared by several differ in their last bits, and checksums with them."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def readable(job: Job, todos: Sequence[Todo], check_workers: int | None) -> Iterator[tuple[Todo, dict[str, Any] | str]]:
    """Clips with their items, or with the reason why there is none. One clip is decoded while another is encoded."""
    clips = [todo.clip for todo in todos]
    reasons = {} if job.buckets else unusable(job, clips, check_workers)
    dataset = open_dataset(job, clips)

    def read(index: int) -> dict[str, Any] | str:
        id = todos[index].clip.id
        if id in reasons:
            return reasons[id]
        try:
            item = dataset[index]
        except DataError:
            return dataset.unreadable[id]
        return item if item["id"] == id else dataset.unreadable[id]

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(read, 0)
        for index, todo in enumerate(todos):
            item = ahead.result()
            if index + 1 < len(todos):
                ahead = pool.submit(read, index + 1)
            yield todo, item


def unusable(job: Job, clips: Sequence[Clip], workers: int | None) -> dict[str, str]:
    """The clips that a look at their files, in watched processes, finds no use for: id -> reason."""
    manifest = Manifest(job.root, "", list(clips))
    report = check(manifest, **job.config.data.sampling, workers=workers, compare=False, cache=cache_file())
    return dict(report.manifest.left_out)


def write(writer: ShardWriter, encoder: Encoder, todo: Todo, item: dict[str, Any] | str) -> None:
    """Encodes a clip and writes what is wanted of it."""
    id = todo.clip.id
    if isinstance(item, str):
        writer.add("left_out", id, todo.mark, {}, reason=item)
        return
    video: Tensor = item["video"]  # [3, T, H, W]
    shape = tuple(video.shape[1:])
    if todo.video:
        conditions = {f"condition.{name}": torch.as_tensor(value) for name, value in item["conditions"].items()}
        writer.add("video", id, todo.mark, encoder.video(video) | conditions, shape)
    if todo.image:
        writer.add("image", id, todo.mark, encoder.image(video), shape)
