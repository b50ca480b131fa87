"""Crops of clips at a random time, place and size, for models that read no captions.

A caption speaks of the whole clip, so a model of text sees all of it. An autoencoder does not, and a few long clips
are thousands of different samples to it.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .. import video as video_files
from ..video.sampling import nearest
from .clips import Clip
from .dataset import TextVideoDataset

ZOOM = 3.0  # the largest cut over the smallest


class CropDataset(TextVideoDataset):
    """Each item is a stretch of a clip, at `fps` or else at the clip's own frame rate.

    With `augment` it begins anywhere in the clip and is cut from anywhere in the frame, as large as fits or down to a
    third of that, never enlarged, and half of the time mirrored. Without, it is the middle of the clip, scaled to cover
    the size. As far as `cache_gb` goes, each process decodes a clip once and keeps all of its frames.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._infos: dict[str, video_files.VideoInfo] = {}
        self._clips: dict[str, video_files.Video | None] = {}  # None: there is no room for it

    def _frames(self, clip: Clip, view: video_files.View, epoch: int) -> np.ndarray:
        count, height, width = view.num_frames, view.height, view.width
        if (info := self._infos.get(clip.id)) is None:
            info = self._infos[clip.id] = video_files.probe(clip.path)
        rate = self.fps or info.fps
        scale = min(1.0, ZOOM * max(height / info.height, width / info.width))
        size = round(info.height * scale), round(info.width * scale)
        window = self._rng("window", epoch, clip) if self.augment else None
        whole = self._whole(clip, size)
        if whole is None or not _long_enough(whole.times, count, rate):
            part = {"start": clip.start, "end": clip.end, "short": self.short}
            frames = video_files.sample(
                clip.path, count, fps=rate, height=size[0], width=size[1], rng=window, **part
            ).frames
        else:  # the same frames, by the rule of `sample`
            offsets = np.arange(count) / rate
            room = whole.times[-1] - whole.times[0] - offsets[-1]
            place = 0.5 if window is None else window.random()
            frames = whole.frames[nearest(whole.times, whole.times[0] + max(room, 0.0) * place + offsets)]
        if not self.augment:
            return video_files.resize(frames, height, width)
        return cut(frames, height, width, self._rng("cut", epoch, clip))

    def _whole(self, clip: Clip, size: tuple[int, int]) -> video_files.Video | None:
        """All frames of a clip at a (height, width); None where there is no room for them."""
        if clip.id not in self._clips:
            number = video_files.examine(clip.path).num_frames
            needed = number * size[0] * size[1] * 3
            self._clips[clip.id] = None
            if needed <= self._cache_left:
                self._cache_left -= needed
                found = video_files.sample(clip.path, number, height=size[0], width=size[1])
                inside = slice(
                    *np.searchsorted(found.times, [clip.start or 0.0, np.inf if clip.end is None else clip.end])
                )
                self._clips[clip.id] = video_files.Video(found.frames[inside], found.times[inside])
        return self._clips[clip.id]

    def augment_text(self, caption: str, rng: np.random.Generator) -> str:
        """The caption as it is: it is not read."""
        return caption

    def augment_video(self, video: torch.Tensor, caption: str, rng: np.random.Generator) -> torch.Tensor:
        """The video as it is: what varies is cut already."""
        return video


def _long_enough(times: np.ndarray, count: int, rate: float) -> bool:
    gap = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return len(times) > 0 and video_files.fits(len(times), float(times[-1] - times[0]), gap, count, rate)


def cut(frames: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A piece uint8 `[T, height, width, 3]` of frames `[T, H, W, 3]`: anywhere, of any size, mirrored or not."""
    full_height, full_width = frames.shape[1:3]
    largest = min(full_height / height, full_width / width)  # pixels for each pixel of the piece
    scale = max(min(1.0, largest), largest * ZOOM ** -rng.random())
    h, w = min(round(height * scale), full_height), min(round(width * scale), full_width)
    top, left = rng.integers(full_height - h + 1), rng.integers(full_width - w + 1)
    piece = frames[:, top : top + h, left : left + w]
    if (h, w) != (height, width):
        pixels = torch.from_numpy(piece.transpose(0, 3, 1, 2).astype(np.float32))  # [T, 3, h, w]
        scaled = F.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
        piece = scaled.round().clamp(0, 255).byte().numpy().transpose(0, 2, 3, 1)
    return piece[:, :, ::-1] if rng.random() < 0.5 else piece
