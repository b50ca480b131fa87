"""The ground behind the things, and which kind of background it is."""

from functools import lru_cache

import numpy as np

from .drawing import render
from .forms import blurred
from .things import Background, Scene

_DIM = 35  # grey levels from a plane through the ground; more is a thing
_FLICKER = 12  # grey levels from frame to frame: more is no ground that stays
_TINTED, _BRIGHT = 30, 110  # grey levels: more colour or more light is no dim background
_STEEP = 25  # grey levels a frame side, of a gradient
_PATTERN = 3.5  # grey levels around the plane, of a pattern
_CLEAR = 0.1  # of the frame, at least, where the ground can be seen
_MATCH = 0.5  # correlation of a pattern with one of the world's, at least
_SIDE = 24  # pixels along which patterns are compared
_SOFT = 0.02  # frame sides, the blur of a soft video, which takes the corners off checks
_TURNS, _PHASES = 60, 12  # angles and phases of them that are tried


def first_guess(pictures: np.ndarray) -> np.ndarray:
    """A plane `[H, W, 3]` through the dim part of a video: what stands out from it belongs to things."""
    middle = np.median(pictures[:: max(1, len(pictures) // 5)], axis=0)
    basis = _basis(*middle.shape[:2])
    value = middle.max(-1)
    trusted = (value <= np.percentile(value, 60)) & (np.ptp(middle, axis=-1) < 60)
    plane = np.broadcast_to(np.percentile(middle, 25, axis=(0, 1)), middle.shape)
    for _ in range(3):
        if trusted.sum() < 16:
            break
        plane = basis @ np.linalg.lstsq(basis[trusted], middle[trusted], rcond=None)[0]
        trusted = np.linalg.norm(middle - plane, axis=-1) < _DIM
    return plane.astype(np.float32)


def ground_and_kind(pictures: np.ndarray, clear: np.ndarray, kinds: tuple[str, ...]) -> tuple[np.ndarray, str | None]:
    """The picture `[H, W, 3]` behind the things and which of `kinds` it is, from the pixels `[T, H, W]` clear of them.

    Where a thing hides it all along, the picture is a plane fitted to the rest.
    """
    times = clear.sum(0)[..., None]  # [H, W, 1]
    mean = (pictures * clear[..., None]).sum(0) / np.maximum(times, 1)
    free = times[..., 0] > 0
    if free.mean() < _CLEAR:
        return np.full_like(mean, 50), None
    basis = _basis(*free.shape)
    fit = np.linalg.lstsq(basis[free], mean[free], rcond=None)[0]
    plane = (basis @ fit).astype(np.float32)
    ground = np.where(times > 0, mean, plane)
    flicker = (((pictures - mean) ** 2).mean(-1) * clear).sum() / clear.sum()
    tint = np.ptp(mean[free].mean(0))
    if flicker > _FLICKER**2 or tint > _TINTED or mean[free].mean() > _BRIGHT:
        return ground, None
    slope = float(np.hypot(*fit[1:].mean(1)))
    pattern = np.where(free, (mean - plane).mean(-1), 0)
    if pattern[free].std() < _PATTERN:
        return ground, "gradient" if slope > _STEEP else "plain"
    return ground, _patterned(pattern, free, kinds) if slope < _STEEP else None


def _patterned(pattern: np.ndarray, free: np.ndarray, kinds: tuple[str, ...]) -> str:
    """The kind of pattern that agrees best in any turn and phase; noise is what agrees with none."""
    regular = tuple(kind for kind in ("textured", "striped", "checkered") if kind in kinds)
    small, weight = _shrunk(np.stack([pattern, free.astype(float)]))
    small, weight = (v.ravel().astype(np.float32) for v in (small, weight))
    drawn, squared = _patterns(regular)  # [K, P, N]
    agreement = drawn @ small / np.sqrt(squared @ weight * (small**2 / np.maximum(weight, 1e-6)).sum() + 1e-9)
    if "noisy" in kinds and agreement.max() < _MATCH:
        return "noisy"
    candidates = drawn[np.arange(len(regular)), agreement.argmax(-1)].reshape(-1, _SIDE, _SIDE)
    soft = np.stack([candidates, blurred(candidates, _SOFT * _SIDE)], 1).reshape(len(regular), 2, -1)
    far = (weight * (soft - small / np.maximum(weight, 1e-6)) ** 2).sum(-1).min(-1)
    return regular[int(far.argmin())]


@lru_cache(2)
def _patterns(kinds: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Every kind of regular pattern in every turn and phase, float32 `[kinds, turns * phases, _SIDE**2]`, and its
    square."""
    drawn = []
    for kind in kinds:
        for turn in np.pi * np.arange(_TURNS) / _TURNS:
            for phase in 2 * np.pi * np.arange(_PHASES) / _PHASES:
                ground = Background(kind, 50, float(turn), float(phase))
                drawn.append(render(Scene((), ground), 1, _SIDE, _SIDE)[0, ..., 1].ravel().astype(np.float32))
    stacked = np.stack(drawn).reshape(len(kinds), -1, _SIDE**2)
    stacked -= stacked.mean(-1, keepdims=True)
    return stacked, stacked**2


def _shrunk(pictures: np.ndarray) -> np.ndarray:
    """The middle square of pictures `[N, H, W]` at `_SIDE` pixels along its side, averaged."""
    _, h, w = pictures.shape
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    for axis, start in ((1, top), (2, left)):
        edges = start + np.linspace(0, side, _SIDE + 1)
        sums = np.concatenate([np.zeros_like(np.take(pictures, [0], axis)), np.cumsum(pictures, axis)], axis)
        low = np.minimum(edges.astype(int), sums.shape[axis] - 2)
        part = (edges - low).reshape((-1, 1) if axis == 1 else (1, -1))
        at = np.take(sums, low, axis) * (1 - part) + np.take(sums, low + 1, axis) * part
        pictures = np.diff(at, axis=axis) * _SIDE / side
    return pictures


def _basis(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / min(height, width)
    return np.stack([np.ones_like(x), x, y], -1)  # [H, W, 3]
