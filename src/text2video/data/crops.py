"""Crops of clips at a random time, place and size, for models that read no captions.

A caption speaks of the whole clip, so a model of text sees all of it. An autoencoder does not, and a few long clips
are thousands of different samples to it.
"""


import numpy as np
import torch
import torch.nn.functional as F

from .. import video as video_files
from .clips import Clip
from .dataset import TextVideoDataset

ZOOM = 3.0  # the largest cut over the smallest


class CropDataset(TextVideoDataset):
    """Each item is a stretch of a clip, at `fps` or else at the clip's own frame rate.

    With `augment` it begins anywhere in the clip and is cut from anywhere in the frame, as large as fits or down to a
    third of that, never enlarged, and half of the time mirrored. Without, it is the middle of the clip, scaled to cover
    the size. As far as `cache_gb` goes, each process decodes a clip once and keeps all of its frames.
    """

    def _frames(self, clip: Clip, shape: tuple[int, int, int], epoch: int) -> np.ndarray:
        count, height, width = shape
        rng = self._rng("crop", epoch, clip)
        place, at_random = (rng.random() if self.augment else 0.5), rng if self.augment else None
        frames = self._cache.get(clip.id)
        if frames is None:
            info = video_files.probe(clip.path)
            rate = self.fps or info.fps
            scale = min(1.0, ZOOM * max(height / info.height, width / info.width))
            high, wide = round(info.height * scale), round(info.width * scale)
            seconds = (info.duration if clip.end is None else clip.end) - (clip.start or 0.0)
            number = max(count, int(seconds * rate + 0.5))
            room = number * high * wide * 3
            keep = room <= self._cache_left
            how = {"fps": rate, "height": high, "width": wide, "start": clip.start, "end": clip.end, "short": self.short}
            frames = video_files.sample(clip.path, number if keep else count, rng=at_random, **how).frames
            if keep:
                self._cache[clip.id] = frames
                self._cache_left -= room
        first = round(place * (len(frames) - count))
        frames = frames[first : first + count]
        return cut(frames, height, width, rng) if self.augment else video_files.resize(frames, height, width)

    def augment_text(self, caption: str, rng: np.random.Generator) -> str:
        """The caption as it is: it is not read."""
        return caption

    def augment_video(self, video: torch.Tensor, caption: str, rng: np.random.Generator) -> torch.Tensor:
        """The video as it is: what varies is cut already."""
        return video


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
