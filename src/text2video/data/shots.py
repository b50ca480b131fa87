"""Where one shot ends and the next begins: hard cuts, dissolves and fades, told from flashes, pans and fast motion.

Every frame is judged as a picture of 16x16 colours. A cut is a change far above those around it, after which the
picture before does not come back (a flash does) and is no brighter or darker copy. A dissolve is a stretch whose middle
is the mean of two unlike pictures, with less contrast than either (a pan keeps it). A fade is a stretch of black
between two pictures.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

SMALL = 16  # pixels a side of the pictures that are compared

_CUT = 10.0  # mean levels of 255 between two frames, at least
_ABOVE = 3.0  # times the changes around it
_AROUND = 8  # frames on each side that a change is held against
_FLASH = 0.4  # seconds within which a picture that comes back makes it a flash
_BACK = 0.45  # of the change, within which a picture has come back
_ALIKE = 0.85  # correlation above which two pictures show the same
_DISSOLVES = (0.2, 0.35, 0.55, 0.8)  # seconds, half of the stretch
_BLEND = 0.28  # of the difference of its ends, that the middle of a dissolve may be off their mean
_CALM = 0.5  # of the difference of its ends, that may happen just before and after a dissolve
_DIP = 0.75  # of the contrast of its ends, that the middle of a dissolve has at most
_EVEN = 0.35  # of their mean, that the contrast of either end of a dissolve has at least
_UNLIKE = 0.5  # correlation of the ends of a dissolve, at most
_BLACK = 10  # levels: mean and deviation of a black frame
_CHUNK, _CONTEXT = 2048, 128  # frames judged together, and seen again with the next ones

Gap = tuple[int, int]  # the first frame that is no longer the old shot, and the first of the new one


class ShotFinder:
    """Finds the shots of a video whose frames come one by one. Memory is bounded, however long it is."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._frames: list[np.ndarray] = []
        self._gaps: list[tuple[float, float]] = []

    def see(self, time: float, small: np.ndarray) -> None:
        """The next frame, uint8 `[16, 16, 3]`, and its time in seconds."""
        self._times.append(time)
        self._frames.append(small)
        if len(self._times) >= _CHUNK + 2 * _CONTEXT:
            self._judge(len(self._times) - _CONTEXT)
            del self._times[: -2 * _CONTEXT], self._frames[: -2 * _CONTEXT]

    def shots(self, first: float, end: float) -> list[tuple[float, float]]:
        """The shots between `first` and `end`, `(start, end)` in seconds, without what blends two of them."""
        if self._times:
            self._judge(len(self._times))
        starts = [first, *(start for _, start in self._gaps)]
        return list(zip(starts, [*(stop for stop, _ in self._gaps), end], strict=True))

    def _judge(self, stop: int) -> None:
        after = self._gaps[-1][1] if self._gaps else -np.inf
        for old, new in gaps(np.stack(self._frames), np.array(self._times)):
            if new < stop and self._times[old] > after:
                self._gaps.append((self._times[old], self._times[new]))


def gaps(frames: np.ndarray, times: np.ndarray) -> list[Gap]:
    """Where shots change in uint8 `[T, 16, 16, 3]` at `times` in seconds: frames before the first number of a gap are
    the old shot, those from the second on the new one."""
    if len(frames) < 4:
        return []
    pictures = frames.reshape(len(frames), -1).astype(np.float32)
    rate = 1 / max(float(np.median(np.diff(times))), 1e-3)
    found = sorted([*_cuts(pictures, rate), *_fades(pictures), *_dissolves(pictures, rate)])
    apart: list[Gap] = []
    for gap in found:  # of two that touch, the sharper one
        if apart and gap[0] <= apart[-1][1] + 2:
            apart[-1] = min(apart[-1], gap, key=lambda g: g[1] - g[0])
        else:
            apart.append(gap)
    return apart


def _cuts(pictures: np.ndarray, rate: float) -> Iterator[Gap]:
    change = np.abs(np.diff(pictures, axis=0)).mean(1)  # [T-1]: into frame i + 1
    reach = max(1, round(_FLASH * rate))
    for i in np.flatnonzero(change > _CUT).tolist():
        around = np.concatenate([change[max(0, i - _AROUND) : i], change[i + 1 : i + 1 + _AROUND]])
        if change[i] < _ABOVE * np.median(around) or change[i] < change[max(0, i - 2) : i + 3].max():
            continue
        before, after = pictures[max(0, i + 1 - reach) : i + 1], pictures[i + 1 : i + 1 + reach]
        returned = np.abs(after[1:] - before[-1]).mean(1).min(initial=np.inf)
        came = np.abs(before[:-1] - after[0]).mean(1).min(initial=np.inf)
        if min(returned, came) > _BACK * change[i] and not _alike(before[-1], after[0]):
            yield i + 1, i + 1


def _fades(pictures: np.ndarray) -> Iterator[Gap]:
    """Stretches of black with a picture before and after; what fades in and out stays with its shot."""
    black = (pictures.mean(1) < _BLACK) & (pictures.std(1) < _BLACK)
    edges = np.flatnonzero(np.diff(black.astype(np.int8)))
    for start, stop in pairwise(edges):
        if black[start + 1]:
            yield int(start) + 1, int(stop) + 1


def _dissolves(pictures: np.ndarray, rate: float) -> Iterator[Gap]:
    """A blend of two unlike pictures has their mean colours and about half of their contrast."""
    sharpest = np.abs(np.diff(pictures, axis=0)).mean(1)
    plain = pictures - pictures.mean(1, keepdims=True)
    contrast = (plain**2).mean(1)
    for seconds in _DISSOLVES:
        half = round(seconds * rate)
        wide = half + max(2, half // 2)
        if half < 2 or len(pictures) < 2 * wide + 1:
            continue
        m = np.arange(wide, len(pictures) - wide)
        start, stop = pictures[m - half], pictures[m + half]
        apart = np.abs(stop - start).mean(1)
        off = np.abs(pictures[m] - (start + stop) / 2).mean(1)
        calm = np.maximum(np.abs(start - pictures[m - wide]).mean(1), np.abs(pictures[m + wide] - stop).mean(1))
        shared = (plain[m - half] * plain[m + half]).mean(1)
        unlike = shared < _UNLIKE * np.sqrt(contrast[m - half] * contrast[m + half])
        ends = (contrast[m - half] + contrast[m + half]) / 2
        even = np.minimum(contrast[m - half], contrast[m + half]) > _EVEN * ends  # else the light changes
        blended = even & (contrast[m] < _DIP * ends) & (off < _BLEND * apart) & (calm < _CALM * apart)
        for i in np.flatnonzero(blended & unlike & (apart > _CUT)).tolist():
            here = int(m[i])
            steady = sharpest[here - half : here + half].max() < 0.6 * apart[i]  # else it is a cut
            if steady and off[i] / apart[i] <= (off / (apart + 1e-6))[max(0, i - half) : i + half + 1].min() + 1e-6:
                yield here - half, here + half


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures show the same, in another light or not."""
    a, b = one - one.mean(), other - other.mean()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    if size < 1e-3:
        return bool(np.abs(one - other).mean() < _CUT)
    return float(a @ b) / size > _ALIKE
