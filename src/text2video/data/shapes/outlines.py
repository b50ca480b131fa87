"""The outlines of the demo world's shapes, as signed distances, and how far each shape reaches.

All are upright around the origin with y down, and measured in radii: a shape's radius is that of a circle of about its
looks. The reflections that fold a star or a cross onto one edge, and the arc, are those of Quilez, "2D distance
functions" (iquilezles.org/articles/distfunctions2d).
"""

import math
from dataclasses import dataclass

import numpy as np

SQUARE = 0.9  # half a square's side
TRIANGLE = 1.3  # a triangle's circumradius
STAR, NOTCH = 1.2, 0.56  # a star's tips and the corners between them
RING = (0.8, 1.15)  # inner and outer radius
CROSS = (0.38, 1.1)  # half the width of an arm, and its end
MOON = (0.433, 1.1)  # where a moon's disc is, right of the middle of what is left of it, and its radius
BITE = (1.053, 0.92)  # where the circle is that is cut out, and its radius
HEART = 1.82  # a heart's height over 1.1
_MIDDLE = 0.58 * HEART  # a heart's middle above its tip
_PEN = 0.22  # half the width of a digit's stroke
DIGITS = ("1", "2", "3", "4", "5")
ROUND = ("circle", "ring")  # looks the same however it is turned


@dataclass(frozen=True)
class _Line:
    x0: float
    y0: float
    x1: float
    y1: float

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        dx, dy = np.float32(self.x1 - self.x0), np.float32(self.y1 - self.y0)
        x, y = x - np.float32(self.x0), y - np.float32(self.y0)
        along = np.clip((x * dx + y * dy) / (dx * dx + dy * dy), 0, 1)
        x, y = x - along * dx, y - along * dy
        return np.sqrt(x * x + y * y)


@dataclass(frozen=True)
class _Arc:
    """Part of a circle, `half` degrees to both sides of the direction `towards` (degrees, clockwise from the right)."""

    x: float
    y: float
    radius: float
    towards: float
    half: float

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        cos, sin = (np.float32(f(math.radians(self.towards))) for f in (math.cos, math.sin))
        x, y = x - np.float32(self.x), y - np.float32(self.y)
        along, across = cos * x + sin * y, abs(cos * y - sin * x)
        end = math.cos(math.radians(self.half)), math.sin(math.radians(self.half))
        cos, sin = (np.float32(v) for v in end)
        beyond = sin * along < cos * across  # past the end: the distance to it
        x, y = along - np.float32(self.radius) * cos, across - np.float32(self.radius) * sin
        on_circle = abs(np.sqrt(along * along + across * across) - np.float32(self.radius))
        return np.where(beyond, np.sqrt(x * x + y * y), on_circle)


_STROKES = {
    "1": (_Line(0.08, -0.92, 0.08, 0.92), _Line(0.08, -0.92, -0.42, -0.5), _Line(-0.4, 0.92, 0.56, 0.92)),
    "2": (_Arc(0, -0.42, 0.5, -75, 115), _Line(0.383, -0.099, -0.5, 0.92), _Line(-0.5, 0.92, 0.56, 0.92)),
    "3": (_Arc(-0.05, -0.45, 0.47, -50, 140), _Arc(-0.05, 0.45, 0.49, 35, 125)),
    "4": (_Line(0.22, -0.92, -0.62, 0.35), _Line(-0.62, 0.35, 0.66, 0.35), _Line(0.22, -0.92, 0.22, 0.92)),
    "5": (_Line(0.5, -0.92, -0.4, -0.92), _Line(-0.4, -0.92, -0.42, -0.08), _Arc(-0.06, 0.36, 0.56, 0, 138)),
}

_FIFTH = math.pi / 5
# How far each reaches sideways, up and down, and the farthest that any point of it is from its middle; in radii.
_EXTENT = {
    "star": (STAR * math.cos(_FIFTH / 2), STAR, STAR * math.cos(_FIFTH)),
    "heart": (0.604 * HEART, 1.104 * HEART - _MIDDLE, _MIDDLE),
    "ring": (RING[1], RING[1], RING[1]),
    "cross": (CROSS[1], CROSS[1], CROSS[1]),
    "moon": (1.035, MOON[1], MOON[1]),
    **dict(zip(DIGITS, ((side, 1.14, 1.16) for side in (0.78, 0.78, 0.74, 0.88, 0.72)), strict=True)),
}
_REACH = {
    "circle": 1.0,
    "square": SQUARE * math.sqrt(2),
    "triangle": TRIANGLE,
    "star": STAR,
    "heart": 0.656 * HEART,
    "ring": RING[1],
    "cross": math.hypot(*CROSS),
    "moon": 1.385,
    **dict(zip(DIGITS, (1.3, 1.3, 1.17, 1.17, 1.27), strict=True)),
}


def reach(shape: str) -> float:
    """The farthest that any point of a shape of radius 1 is from its middle."""
    return _REACH[shape]


def extent(shape: str, radius: float) -> tuple[float, float, float]:
    """How far an upright shape reaches sideways, up and down from its middle."""
    if shape in _EXTENT:
        side, above, below = _EXTENT[shape]
        return side * radius, above * radius, below * radius
    reached = _REACH[shape] * radius
    if shape == "circle":
        return reached, reached, reached
    if shape == "square":
        half = reached * math.sqrt(0.5)
        return half, half, half
    return reached * math.sqrt(0.75), reached, reached / 2


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Distance to the edge of an upright shape around the origin, negative inside; straight corners are mitred.

    `x`, `y` and `radius` are float32 in one unit and broadcast together.
    """
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - SQUARE * radius
    if shape == "triangle":
        slant = np.float32(math.sqrt(0.75)) * abs(x) - np.float32(0.5) * y
        return np.maximum(slant, y) - TRIANGLE / 2 * radius
    if shape == "ring":
        middle, half = np.float32(sum(RING) / 2), np.float32((RING[1] - RING[0]) / 2)
        return abs(np.sqrt(x * x + y * y) - middle * radius) - half * radius
    if shape == "cross":
        x, y = abs(x), abs(y)
        width, end = (np.float32(v) for v in CROSS)
        return np.maximum(np.maximum(x, y) - end * radius, np.minimum(x, y) - width * radius)
    if shape == "moon":
        disc, bite = (np.sqrt((x - np.float32(place) * radius) ** 2 + y * y) for place, _ in (MOON, BITE))
        return np.maximum(disc - np.float32(MOON[1]) * radius, np.float32(BITE[1]) * radius - bite)
    x, y = x / radius, y / radius
    if shape == "star":
        return _star(x, y) * radius
    if shape == "heart":
        return _heart(x, y) * radius
    strokes = iter(_STROKES[shape])
    distance = next(strokes).distance(x, y)
    for stroke in strokes:
        distance = np.minimum(distance, stroke.distance(x, y))
    return (distance - np.float32(_PEN)) * radius


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x = abs(x)
    for cos, sin in ((math.cos(_FIFTH), -math.sin(_FIFTH)), (-math.cos(_FIFTH), -math.sin(_FIFTH))):
        beyond = 2 * np.maximum(np.float32(cos) * x - np.float32(sin) * y, 0)  # mirrored where it is behind the line
        x, y = x - beyond * np.float32(cos), y + beyond * np.float32(sin)
    x = abs(x)  # now within half a tip of the upright one
    dx, dy = NOTCH * math.sin(_FIFTH), STAR - NOTCH * math.cos(_FIFTH)  # its edge, from the tip to the corner
    length = math.hypot(dx, dy)
    return np.float32(dy / length) * x - np.float32(dx / length) * (y + np.float32(STAR))


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = abs(x) / np.float32(HEART), (np.float32(_MIDDLE) - y) / np.float32(HEART)  # the tip at 0, y up
    quarter = np.float32(0.25)
    lobe = np.sqrt((x - quarter) ** 2 + (y - 3 * quarter) ** 2) - np.float32(math.sqrt(2) / 4)
    half = np.maximum(x + y, 0) / 2
    side = np.sqrt(np.minimum(x * x + (y - 1) ** 2, (x - half) ** 2 + (y - half) ** 2)) * np.sign(x - y)
    return np.where(x + y > 1, lobe, side) * np.float32(HEART)
