"""What the frames of a file show, found in one decoding from end to end: light, motion, shots, text, and a signature.

A file may hold several clips, stretches of it; each gets a look of its own. Frames are looked at with their longer side
at 160 pixels. Memory is bounded, however long a file is.
"""

import base64
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import video
from ..errors import VideoError
from ..video import VideoInfo
from .duplicates import signature
from .overlays import OverlayFinder
from .shots import SMALL, ShotFinder

VERSION = 1  # of what is found: a cache holds no findings of another

_EPSILON = 1e-6  # seconds, as in `video.sample`
_STEP = 0.25  # seconds between frames that motion is measured on
_NOISE = 4.0  # levels of 255 that are no motion
_FLAT = 1e-3  # levels a pixel, summed over the measured seconds: nothing that could be seen to move
_LEAST = 8  # pixels of a side, for shots and text to be looked for
_KEPT = 64  # small pictures kept of a stretch, at least, once it has so many
_TRIED = 8  # frames sampled evenly, to see that seeking works
_SHOWN = 4  # frames of a thumbnail
_THUMBNAIL = 9000  # bytes

Part = tuple[float | None, float | None]


@dataclass(frozen=True)
class Look:
    """What one clip's frames show.

    Args:
        frames: how many there are.
        first, last: times of the first and the last one, seconds from the file's first frame.
        gap: median time between two, seconds; 0 for a single one.
        brightness: mean level of 255.
        brightest: level that all but 2% of the pixels stay below, in the brightest frame.
        change: levels that all but 0.2% of the pixels stay within, all the time.
        motion: how fast what is seen moves, in percent of the longer side a second, a rough mean over the picture.
        text: share of the pixels that are edges of a text or logo over the moving picture.
        shots: `(start, end)` of each, in seconds; what blends two of them belongs to none.
        signature: what near-duplicates have in common, see `duplicates`.
        thumbnail: a few frames side by side as a WebP in base64, where it was asked for.
    """

    frames: int
    first: float
    last: float
    gap: float
    brightness: float
    brightest: float
    change: float
    motion: float
    text: float
    shots: list[tuple[float, float]]
    signature: str
    thumbnail: str | None = None


@dataclass(frozen=True)
class Findings:
    """A file: what it holds, and a look at each of its parts; None for a part without a frame."""

    info: VideoInfo
    looks: list[Look | None]

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Findings":
        """What `examine` answered, back from JSON."""
        looks = [look and Look(**look) for look in content["looks"]]
        return cls(VideoInfo(**content["info"]), looks)


def examine(path: str | Path, parts: Sequence[Part] = ((None, None),), thumbnails: bool = False) -> dict[str, Any]:
    """Decodes a file once: its info and a look at each part, as JSON can hold it, or the `reason` why it cannot be.

    Args:
        parts: `(start, end)` of stretches in seconds, as those of clips; None is the file's own.
        thumbnails: whether looks have one.
    """
    watchers = [_Watcher(start, end, thumbnails) for start, end in parts]

    def look(time: float, frame: np.ndarray) -> None:
        watching = [watcher for watcher in watchers if watcher.wants(time)]
        if not watching:
            return
        image = Image.fromarray(frame)
        luma = np.asarray(image.convert("L"))
        small = np.asarray(image.resize((SMALL, SMALL), Image.Resampling.BOX))
        for watcher in watching:
            watcher.see(time, frame, luma, small)

    try:
        info = video.examine(path, look)
    except VideoError as error:
        return {"reason": str(error)}
    _rehearse(path, info, parts)
    return {"info": asdict(info), "looks": [look and asdict(look) for look in (w.look() for w in watchers)]}


def _rehearse(path: str | Path, info: VideoInfo, parts: Sequence[Part]) -> None:
    """Samples as training will, evenly and in windows: what decodes to its end may still hang where it is sought in.

    An error is no news here: whoever samples meets the same one.
    """
    for start, end in parts:
        first, last = start or 0.0, min(end or info.duration, info.duration)
        windows = [(2, info.fps, first + place * (last - first)) for place in (0.0, 0.5, 0.9)]
        for count, fps, since in [(_TRIED, None, first), *windows]:
            with suppress(VideoError):
                video.sample(path, count, fps=fps, height=_LEAST, start=since, end=end)


class _Watcher:
    """Gathers what is needed for one `Look` while frames pass by."""

    def __init__(self, start: float | None, end: float | None, thumbnails: bool):
        self.start = -np.inf if start is None else start
        self.end = np.inf if end is None else end
        self.times: list[float] = []
        self.light = self.brightest = 0.0
        self.lowest = self.highest = np.zeros(0, np.uint8)
        self.seen: tuple[float, np.ndarray] | None = None  # the frame that motion is measured from
        self.moved = self.edges = 0.0
        self.latest: tuple[float, np.ndarray] | None = None
        self.shots, self.overlay = ShotFinder(), OverlayFinder()
        self.small = _Thinned(_KEPT)
        self.shown = _Thinned(2 * _SHOWN) if thumbnails else None

    def wants(self, time: float) -> bool:
        return self.start - _EPSILON <= time < self.end - _EPSILON

    def see(self, time: float, frame: np.ndarray, luma: np.ndarray, small: np.ndarray) -> None:
        if not self.times:
            self.lowest, self.highest = frame.copy(), frame.copy()
        self.times.append(time)
        self.light += float(luma.mean())
        self.brightest = max(self.brightest, float(np.quantile(frame[::2, ::2].max(axis=-1), 0.98)))
        np.minimum(self.lowest, frame, out=self.lowest)
        np.maximum(self.highest, frame, out=self.highest)
        if min(luma.shape) >= _LEAST:
            self.shots.see(time, small)
        self.small.add(time, small)
        if self.shown is not None:
            self.shown.add(time, frame)
        self.latest = time, luma
        if self.seen is None or time >= self.seen[0] + _STEP - _EPSILON:
            self.measure(time, luma)

    def measure(self, time: float, luma: np.ndarray) -> None:
        """Motion since the last measured frame: the change over the slope of the picture (normal flow)."""
        grey = luma.astype(np.float32)
        if self.seen is not None:
            change = np.maximum(np.abs(grey - self.seen[1]) - _NOISE, 0).mean()
            seconds = max(time - self.seen[0], _EPSILON)
            slope = np.abs(np.diff(grey, axis=0)).sum() + np.abs(np.diff(grey, axis=1)).sum()
            self.moved += float(change)
            self.edges += float(slope / grey.size) * seconds
        if min(luma.shape) >= _LEAST:
            self.overlay.see(luma)
        self.seen = time, grey

    def look(self) -> Look | None:
        if not self.times:
            return None
        if self.latest and self.seen and self.latest[0] > self.seen[0]:
            self.measure(*self.latest)
        times = np.sort(self.times)
        gap = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        first, last, side = float(times[0]), float(times[-1]), max(self.lowest.shape[:2])
        return Look(
            frames=len(times),
            first=first,
            last=last,
            gap=gap,
            brightness=round(self.light / len(times), 2),
            brightest=round(self.brightest, 2),
            change=round(float(np.quantile((self.highest - self.lowest).max(axis=-1), 0.998)), 2),
            motion=round(100 * self.moved / self.edges / side, 3) if self.edges > _FLAT else 0.0,
            text=round(self.overlay.share(), 5),
            shots=[(round(a, 6), round(b, 6)) for a, b in self.shots.shots(first, last + gap)],
            signature=signature(*self.small.all()),
            thumbnail=_strip(self.shown.all()[1]) if self.shown is not None else None,
        )


class _Thinned:
    """Of any number of pictures, between `count` and twice as many, evenly spaced."""

    def __init__(self, count: int):
        self.count, self.stride, self.number = count, 1, 0
        self.kept: list[tuple[float, np.ndarray]] = []

    def add(self, time: float, picture: np.ndarray) -> None:
        if self.number % self.stride == 0:
            self.kept.append((time, picture))
            if len(self.kept) > 2 * self.count:
                self.kept, self.stride = self.kept[::2], 2 * self.stride
        self.number += 1

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """Times `[N]` in increasing order, and pictures `[N, h, w, 3]`."""
        kept = sorted(self.kept, key=lambda pair: pair[0])
        return np.array([time for time, _ in kept]), np.stack([picture for _, picture in kept])


def _strip(frames: np.ndarray) -> str:
    """A few of the frames side by side, as a small WebP in base64."""
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, _SHOWN).round().astype(int))]
    strip = Image.fromarray(np.concatenate(list(chosen), axis=1))
    for quality in (55, 30, 10):
        file = io.BytesIO()
        strip.save(file, "WEBP", quality=quality)
        if file.tell() <= _THUMBNAIL:
            break
    return base64.b64encode(file.getvalue()).decode()
