"""Pictures of a scene: every thing is covered pixel by pixel from its signed distance, back to front."""

import math
from functools import lru_cache

import numpy as np

from .outlines import signed_distance
from .things import Background, Scene, Thing

Span = tuple[float, float]
"""Part of a scene's time: when it begins and ends, from 0 to 1."""
WHOLE: Span = (0.0, 1.0)
_SHADOW = 0.45  # how much darker it is in the middle of a shadow
_FALL = (0.012, 0.028)  # a shadow lies so far to the right and below, in frame sides
_SOFT = 0.05  # frame sides from full shadow to none
_SHADE = 0.1  # how much darker the lower right of a thing is, at most, than its upper left
_TINT = 0.16  # of a background's level
_NOISE = 32  # grains along a frame's side


def render(scene: Scene, num_frames: int = 16, height: int = 64, width: int = 64, span: Span = WHOLE) -> np.ndarray:
    """The scene as uint8 `[T, H, W, 3]`, anti-aliased; in a frame that is not square it fills the middle square.

    The frames are spread evenly over `span`; one alone is in its middle.
    """
    u = _times(num_frames, span)
    ground = _ground(scene.background, height, width)  # [H, W, 3]
    frames = np.broadcast_to(ground, (num_frames, height, width, 3)).copy()
    for thing in reversed(scene.things):
        _draw(frames, thing, u, scene.shadows)
    return (frames + np.float32(0.5)).astype(np.uint8)


def _times(num_frames: int, span: Span) -> np.ndarray:
    return np.linspace(*span, num_frames) if num_frames > 1 else np.array([sum(span) / 2])


def _draw(frames: np.ndarray, thing: Thing, u: np.ndarray, lit: bool) -> None:
    """Lay a thing over float32 frames `[T, H, W, 3]`, in the window `[K, L]` around it of each frame alone."""
    height, width = frames.shape[1:3]
    x, y, pixels = _grid(height, width)
    cx, cy = thing.centre(u)
    room = thing.reach + 3 / pixels + (_SOFT if lit else 0)
    rows, columns = _window(cy, y, room, pixels), _window(cx, x, room, pixels)  # [T, K], [T, L]
    where = np.arange(len(u))[:, None, None], rows[:, :, None], columns[:, None, :]
    cx, cy, radius = (v.astype(np.float32)[:, None, None] for v in (cx, cy, thing.radius(u)))
    x, y = x[columns][:, None, :] - cx, y[rows][:, :, None] - cy  # [T, 1, L], [T, K, 1]
    patch = frames[where]  # [T, K, L, 3]
    colour = thing.colours(u)[:, None, None]  # [T, 1, 1, 3]
    if lit:
        light = (np.float32(0.6) * x + np.float32(0.8) * y) / np.float32(
            thing.reach
        )  # -1 to 1, upper left to lower right
        shade = 1 - np.float32(_SHADE / 2) * (1 + np.clip(light, -1, 1))
        colour = colour * shade[..., None]
    if thing.motion == "rotating":
        cos, sin = (f(thing.angle(u)).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
        x, y = cos * x + sin * y, cos * y - sin * x
    distance = signed_distance(thing.shape, x, y, radius)  # [T, K, L]
    if lit:
        patch *= _shadow(distance, pixels)[..., None]
    cover = np.clip(np.float32(0.5) - np.float32(pixels) * distance, 0, 1)[..., None]
    patch += cover * (colour - patch)
    frames[where] = patch


def cover(thing: Thing, num_frames: int, height: int, width: int, span: Span = WHOLE) -> np.ndarray:
    """How much of each pixel a thing covers, float32 `[T, H, W]` in [0, 1], whatever is before it."""
    u = _times(num_frames, span)
    x, y, pixels = _grid(height, width)
    cx, cy, radius = (v.astype(np.float32)[:, None, None] for v in (*thing.centre(u), thing.radius(u)))
    x, y = np.broadcast_arrays(x[None, None, :] - cx, y[None, :, None] - cy)  # each [T, H, W]
    if thing.motion == "rotating":
        cos, sin = (f(thing.angle(u)).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
        x, y = cos * x + sin * y, cos * y - sin * x
    return np.clip(np.float32(0.5) - np.float32(pixels) * signed_distance(thing.shape, x, y, radius), 0, 1)


def _window(centre: np.ndarray, grid: np.ndarray, room: float, pixels: int) -> np.ndarray:
    """The pixels `[T, K]` of a row or column within `room` of the centres, moved where they would leave the frame."""
    size = min(len(grid), math.ceil(2 * room * pixels) + 1)
    first = np.floor((centre - room - grid[0]) * pixels).astype(int)
    return np.clip(first, 0, len(grid) - size)[:, None] + np.arange(size)


def _shadow(distance: np.ndarray, pixels: int) -> np.ndarray:
    """What is left of the light `[T, K, L]`: the outline, softened, some whole pixels to the right and below."""
    right, down = (max(1, round(fall * pixels)) for fall in _FALL)
    depth = np.clip(np.float32(0.5) - distance / np.float32(_SOFT), 0, 1)
    light = np.ones_like(distance)
    light[:, down:, right:] -= np.float32(_SHADOW) * (depth * depth * (3 - 2 * depth))[:, :-down, :-right]
    return light


@lru_cache(8)
def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The places of the columns and of the rows in the unit square, and the pixels along its side."""
    pixels = min(height, width)
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / pixels + 0.5
    y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / pixels + 0.5
    return x, y, pixels


def _ground(background: Background, height: int, width: int) -> np.ndarray:
    x, y, pixels = _grid(height, width)
    x, y = x[None, :], y[:, None]
    cos, sin = np.float32(math.cos(background.angle)), np.float32(math.sin(background.angle))
    p, q = cos * (x - 0.5) + sin * (y - 0.5), cos * (y - 0.5) - sin * (x - 0.5)  # [H, W]
    wave = np.float32(2 * math.pi * 3)
    if background.kind == "gradient":
        pattern = 50 * p
    elif background.kind == "textured":
        pattern = 15 * np.sin(wave * p + background.phase) * np.sin(wave * q + background.phase)
    elif background.kind == "striped":
        pattern = 13 * _bands(p, 5, background.phase, pixels)
    elif background.kind == "checkered":
        pattern = 13 * _bands(p, 3, background.phase, pixels) * _bands(q, 3, background.phase, pixels)
    elif background.kind == "noisy":
        pattern = _grain(background.phase, x, y)
    else:
        pattern = np.zeros_like(p)
    grey = (background.level + pattern).astype(np.float32)
    if background.tint is None:
        return grey[..., None] * np.array([0.97, 1.0, 1.08], np.float32)  # a slate grey
    hue = background.tint + np.array([0, -2, 2]) * math.pi / 3
    return grey[..., None] * (1 + _TINT * np.cos(hue)).astype(np.float32)


def _bands(across: np.ndarray, pairs: int, phase: float, pixels: int) -> np.ndarray:
    """Light (1) and dark (-1) bands of equal width with edges of one pixel, `pairs` of them along a frame's side."""
    place = pairs * across + np.float32(phase / (2 * math.pi))
    edge = np.float32(0.25) - abs(place - np.round(place))  # how far inside a light band, in pairs
    return np.clip(edge * np.float32(2 * pixels / pairs), -1, 1)


def _grain(phase: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Smooth noise that follows from the phase, the same at every resolution; beyond the unit square it repeats."""
    grains = np.random.default_rng(int(phase * 1e6)).normal(0, 12, (_NOISE, _NOISE)).astype(np.float32)
    for axis, place in ((1, x[0]), (0, y[:, 0])):
        low = np.floor(place * _NOISE - 0.5)
        part = (place * _NOISE - 0.5 - low).astype(np.float32)
        part = part if axis else part[:, None]
        first, second = (np.take(grains, (low.astype(int) + k) % _NOISE, axis) for k in (0, 1))
        grains = first + part * (second - first)
    return np.clip(grains, -25, 25)
