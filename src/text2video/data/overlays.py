"""A hint of burned-in text, a logo or a watermark: sharp edges that stay in their place while the picture moves.

Where the camera stands still all edges stay, so nothing is said of such a clip. Long straight edges are those of bars.
"""

from typing import Any

import numpy as np

_EDGE = 18.0  # levels of 255 a pixel
_STEADY = 0.9  # of the edge's mean strength, that is left when the edges of all frames are added up as vectors
_MOVES = 8.0  # levels of deviation over time of a pixel that moves
_CAMERA = 0.85  # share of the pixels that has to move: the camera does
_LONG = 0.35  # of a side; a straight run of edges beyond it is a border
_ENOUGH = 8  # frames


class OverlayFinder:
    """Adds up edges over the frames it is shown: two a second are enough."""

    def __init__(self) -> None:
        self._count = 0
        self._sums: list[Any] = []

    def see(self, luma: np.ndarray) -> None:
        """A frame's brightness, uint8 `[H, W]`, at least 8x8 pixels."""
        grey = luma.astype(np.float32)
        across = (grey[1:-1, 2:] - grey[1:-1, :-2]) / 2
        down = (grey[2:, 1:-1] - grey[:-2, 1:-1]) / 2
        inner = grey[1:-1, 1:-1]
        parts = (across, down, np.hypot(across, down), inner, inner**2)
        self._sums = [total + part for total, part in zip(self._sums or [0.0] * 5, parts, strict=True)]
        self._count += 1

    def share(self) -> float:
        """The share of the picture's pixels that are edges of something put over it; 0 where that cannot be told."""
        if self._count < _ENOUGH:
            return 0.0
        across, down, strength, mean, square = (total / self._count for total in self._sums)
        moving = np.sqrt(np.maximum(square - mean**2, 0)) > _MOVES
        if moving.mean() < _CAMERA:
            return 0.0
        steady = (np.hypot(across, down) > _STEADY * strength) & (strength > _EDGE)
        for axis in (0, 1):
            border = steady.mean(axis=axis, keepdims=True) > _LONG
            steady &= ~(border | np.roll(border, 1, 1 - axis) | np.roll(border, -1, 1 - axis))
        return float(steady.mean())
