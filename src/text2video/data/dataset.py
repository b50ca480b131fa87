"""A captioned clip as tensors: frames in [-1, 1] and one caption, the same for the same (seed, epoch, clip).

Whatever is random (the window, which of several captions, augmentation) is drawn from `(seed, epoch, clip id)` and from
nothing else, so that any number of workers gives the same run, and a resumed run goes on with the same clips.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from .. import video as video_files
from ..errors import DataError, UsageError, VideoError
from .clips import Clip, Manifest, stable_hash
from .columns import ClipColumns
from .conditions import Source
from .flips import stays_true_when_flipped, vary_text
from .layouts import read_layout

log = logging.getLogger(__name__)


class TextVideoDataset(Dataset[dict[str, Any]]):
    """Captioned clips for training.

    An item is `{"video": float32 [C, T, H, W] in [-1, 1], "caption": str, "id": str, "conditions": {}}`, with the
    `conditions` that are asked for as name -> tensor. It is asked for by `dataset[index]` (epoch 0) or
    `dataset[index, epoch]`. A picture is a clip of one frame (T = 1): `shape` tells a sampler, so that a batch has one
    shape.

    A clip that cannot be decoded is replaced by the next one of the same shape, and named once in the log.

    Subclasses can override `augment_text` and `augment_video`; both are called with `augment=True` only.

    Args:
        data: a data folder or table (see `read_layout`), a Manifest, or clips.
        num_frames: frames of a video clip.
        frame_size: height and width in pixels, where these are not given.
        height, width: the size in pixels; clips are scaled to cover it, and cropped in the middle.
        fps: frames per second to sample at; None takes frames evenly spaced over the clip.
        seed: of everything random.
        augment: vary frames and captions where captions stay true.
        caption_prefix: put before every caption, as a trigger word.
        short: what becomes of clips that are too short: see `video.sample`.
        buckets: the bucket of each clip, (frames, height, width), in place of one size for all: see `fitting.plan`.
        random_window: with `fps`, where in the clip the frames begin: anywhere, or in the middle.
        cache_gb: memory, in each process, for frames that are the same in every epoch: those of clips sampled evenly or
            in the middle. They are decoded once.
        as_levels: where frames are not varied, hand out `video` as uint8 levels, a quarter of the bytes for loaders to
            pass on; `to_float` makes the floats of it.
        conditions: name -> what else a clip is made by, and where it lies, see `conditions.find`. They are read anew in
            every epoch.

    Raises:
        UsageError: a count or size below 1.
        DataError: no clip can be used, or there is not one bucket for each.
    """

    def __init__(
        self,
        data: str | Path | Manifest | Sequence[Clip],
        *,
        num_frames: int = 16,
        frame_size: int = 64,
        height: int | None = None,
        width: int | None = None,
        fps: float | None = None,
        seed: int = 0,
        augment: bool = False,
        caption_prefix: str = "",
        short: Literal["repeat_last", "loop", "error"] = "repeat_last",
        buckets: Sequence[tuple[int, int, int]] | None = None,
        random_window: bool = True,
        cache_gb: float = 1.0,
        as_levels: bool = False,
        conditions: Mapping[str, Source] | None = None,
    ):
        self.num_frames = num_frames
        self.height, self.width = height or frame_size, width or frame_size
        if min(num_frames, self.height, self.width) < 1 or (fps is not None and not fps > 0):
            raise UsageError(
                f"{num_frames} frames of {self.width}x{self.height} pixels at {fps} fps cannot be sampled: "
                "every number has to be above 0."
            )
        if isinstance(data, str | Path):
            data = read_layout(data)
        clips = data.clips if isinstance(data, Manifest) else data
        self.clips = ClipColumns(clips)
        if not self.clips:
            raise DataError("The data set holds no clip. `text2video data check` says what is there and what is wrong.")
        if buckets is not None and len(buckets) != len(self.clips):
            raise DataError(f"{len(buckets)} buckets are given for {len(self.clips)} clips. Give one for each clip.")
        numbers: dict[tuple[int, int, int], int] = {}
        own = buckets if buckets is not None else map(self._size, clips)
        self._bucket = np.fromiter((numbers.setdefault(b, len(numbers)) for b in own), np.int32)  # by index
        self._buckets = list(numbers)
        self.fps = fps
        self.seed = seed
        self.augment = augment
        self.caption_prefix = caption_prefix.strip()
        self.short: Literal["repeat_last", "loop", "error"] = short
        self.random_window = random_window
        self.as_levels = as_levels
        self.conditions = dict(conditions or {})
        self.unreadable: dict[str, str] = {}  # clip id -> why another took its place
        self._cache: dict[str, video_files.Video] = {}
        self._cache_left = int(cache_gb * 1e9)

    @classmethod
    def from_dir(cls, data_dir: str | Path, **options: Any) -> Self:
        """The same as giving the folder itself."""
        return cls(data_dir, **options)

    @property
    def ids(self) -> list[str]:
        """The clips' ids, by index."""
        return [clip.id for clip in self.clips]

    def __len__(self) -> int:
        return len(self.clips)

    def shape(self, index: int) -> tuple[int, int, int]:
        """(frames, height, width) of the item."""
        return self._buckets[self._bucket[index]]

    def _size(self, clip: Clip) -> tuple[int, int, int]:
        """The shape of a clip's item where no buckets are given."""
        return (1 if clip.is_picture else self.num_frames, self.height, self.width)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        index = range(len(self.clips))[index]
        shape, size = self.shape(index), len(self.clips)
        for candidate in (n % size for n in range(index, index + size)):
            clip = self.clips[candidate]
            if clip.id in self.unreadable or self.shape(candidate) != shape:
                continue
            try:
                view = self._view(clip, shape, epoch)
                frames = self._frames(clip, view, epoch)
                told = {name: source.of(clip.id, view) for name, source in self.conditions.items()}
            except Exception as error:  # a decoder meets any bytes and may answer with any error
                known = isinstance(error, VideoError | DataError)
                self.unreadable[clip.id] = reason = str(error) if known else repr(error)
                log.warning("%s is left out, the next clip takes its place: %s", clip.id, reason)
            else:
                item = self._item(clip, frames, epoch)
                return item | {"conditions": item["conditions"] | told}
        clip = self.clips[index]
        raise DataError(
            f"No clip of {shape[0]} frames of {shape[2]}x{shape[1]} pixels can be read. {clip.id}: "
            f"{self.unreadable[clip.id]} `text2video data check` says what is wrong with each."
        )

    def _view(self, clip: Clip, shape: tuple[int, int, int], epoch: int) -> video_files.View:
        drawn = self.random_window and self.fps is not None
        seed = stable_hash("window", self.seed, epoch, clip.id) if drawn else None
        known = self._cache.get(clip.id)
        return video_files.View(*shape, self.fps, clip.start, clip.end, self.short, seed, clip.path, known)

    def _frames(self, clip: Clip, view: video_files.View, epoch: int) -> np.ndarray:
        """uint8 `[T, H, W, 3]`."""
        frames = view.own.frames
        if view.known is None and view.seed is None and frames.nbytes <= self._cache_left:
            self._cache[clip.id] = view.own
            self._cache_left -= frames.nbytes
        return frames

    def _item(self, clip: Clip, frames: np.ndarray, epoch: int) -> dict[str, Any]:
        video = torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2)))  # [C, T, H, W]; moved as bytes
        if self.augment or not self.as_levels:
            video = to_float(video)
        caption = draw_caption(clip, self.seed, epoch)
        if self.augment:
            caption = self.augment_text(caption, self._rng("augment_text", epoch, clip))
            video = self.augment_video(video, caption, self._rng("augment_video", epoch, clip))
        caption = f"{self.caption_prefix} {caption}".strip()
        return {"video": video.contiguous(), "caption": caption, "id": clip.id, "conditions": {}}

    def _rng(self, purpose: str, epoch: int, clip: Clip) -> np.random.Generator:
        return _rng(purpose, self.seed, epoch, clip)

    def augment_text(self, caption: str, rng: np.random.Generator) -> str:
        """The caption in other words that are as true. Override it for your own; draw only from `rng`."""
        return vary_text(caption, rng)

    def augment_video(self, video: torch.Tensor, caption: str, rng: np.random.Generator) -> torch.Tensor:
        """The video changed a little, alike in every frame, so that the caption stays true.

        Brightness and contrast by up to 10%, a zoom by up to 10%, and half of the time a mirror image where the caption
        names nothing that a mirror changes. Never backwards in time. Override it for your own; draw only from `rng`.

        Args:
            video: float `[C, T, H, W]` in [-1, 1].
            caption: what it shows, without the prefix.
            rng: of this clip and epoch.

        Returns:
            float `[C, T, H, W]` in [-1, 1].
        """
        contrast, brightness = rng.uniform(0.9, 1.1), rng.uniform(-0.1, 0.1)
        zoom, down, right, flip = rng.uniform(0.9, 1.0), rng.random(), rng.random(), rng.random() < 0.5
        height, width = video.shape[-2:]
        h, w = math.ceil(height * zoom), math.ceil(width * zoom)
        top, left = round((height - h) * down), round((width - w) * right)
        if (h, w) != (height, width):
            cut = video[..., top : top + h, left : left + w].transpose(0, 1)  # [T, C, h, w]
            video = F.interpolate(cut, size=(height, width), mode="bicubic", align_corners=False).transpose(0, 1)
        if flip and stays_true_when_flipped(caption):
            video = video.flip(-1)
        return (video * contrast + brightness).clamp(-1, 1)


def draw_caption(clip: Clip, seed: int, epoch: int) -> str:
    """One of the clip's captions."""
    return clip.captions[int(_rng("caption", seed, epoch, clip).integers(len(clip.captions)))]


def to_float(frames: torch.Tensor) -> torch.Tensor:
    """Levels 0 to 255 -> float32 in [-1, 1]; what is float already stays as it is."""
    return frames.float().div_(127.5).sub_(1) if frames.dtype == torch.uint8 else frames


def _rng(purpose: str, seed: int, epoch: int, clip: Clip) -> np.random.Generator:
    return np.random.default_rng(stable_hash(purpose, seed, epoch, clip.id))
