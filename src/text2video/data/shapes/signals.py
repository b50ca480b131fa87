"""What else can be told of a scene of the demo world, as conditions: depth, sound, the names of what is in it."""

from collections.abc import Callable

import numpy as np

from ...errors import DataError
from ...video import Sound
from ...video.sound import RATE
from .drawing import WHOLE, Span, cover
from .things import BOUNCES, CHANGING_COLOUR, DIRECTIONS, ORBITS, RESIZED, Scene
from .worlds import seeded

LAST = 15 / 8
"""Seconds after which the last frame of a clip begins, of 16 frames at 8 a second: as `write` makes them."""
BEATS = 8
"""Of a bar. The first is always struck, the next five tell the motion, two are silent."""
_RHYTHMS = (*DIRECTIONS, *RESIZED, "rotating", "still", *BOUNCES, *ORBITS, CHANGING_COLOUR)


def depth(scene: Scene, num_frames: int, height: int, width: int, span: Span = WHOLE) -> np.ndarray:
    """How near things are, uint8 `[T, H, W]`: the first is white, each behind it darker, the background black."""
    levels = np.zeros((num_frames, height, width), np.float32)
    for order, thing in reversed(list(enumerate(scene.things))):
        shown = cover(thing, num_frames, height, width, span)
        levels += shown * (255 * (1 - order / 4) - levels)
    return levels.round().astype(np.uint8)


def mask(scene: Scene, num_frames: int, height: int, width: int, span: Span = WHOLE) -> np.ndarray:
    """Where the first thing is, uint8 `[T, H, W]`, 0 or 255."""
    return np.where(cover(scene.things[0], num_frames, height, width, span) > 0.5, 255, 0).astype(np.uint8)


def rhythm(motion: str) -> np.ndarray:
    """The beats of a bar that are struck: bool `[BEATS]`."""
    number = _RHYTHMS.index(motion) + 1
    return np.array([True, *(bool(number >> bit & 1) for bit in range(5)), False, False])


def sound(scene: Scene, seconds: float, rng: np.random.Generator) -> Sound:
    """Two bars in which the rhythm tells the motion of the first thing; pitch, loudness and noise tell nothing."""
    samples = rng.normal(0, 0.003, round(seconds * RATE))
    pitch, loudness = rng.uniform(300, 1200), rng.uniform(0.3, 0.9)
    beat = len(samples) / (2 * BEATS)
    time = np.arange(round(beat * 0.8)) / RATE
    tone = loudness * np.sin(2 * np.pi * pitch * time) * np.exp(-time * 20)
    for number in np.flatnonzero(np.tile(rhythm(scene.things[0].motion), 2)):
        begin = round(number * beat)
        samples[begin : begin + len(tone)] += tone[: len(samples) - begin]
    return Sound(samples.clip(-1, 1).astype(np.float32))


def _heard(scene: Scene, seconds: float, id: str, span: Span) -> Sound:
    whole = sound(scene, seconds, seeded("sound", id))
    return Sound(whole.samples[round(span[0] * LAST * RATE) :])


# name -> value, of (scene, (frames, height, width), seconds of the whole clip, id, the part of it that is shown)
SIGNALS: dict[str, Callable[[Scene, tuple[int, int, int], float, str, Span], object]] = {
    "depth": lambda scene, shape, seconds, id, span: depth(scene, *shape, span),
    "mask": lambda scene, shape, seconds, id, span: mask(scene, *shape, span),
    "audio": lambda scene, shape, seconds, id, span: _heard(scene, seconds, id, span),
    "colour": lambda scene, shape, seconds, id, span: scene.things[0].colour,
    "shape": lambda scene, shape, seconds, id, span: scene.things[0].shape,
    "motion": lambda scene, shape, seconds, id, span: scene.things[0].motion,
    "place": lambda scene, shape, seconds, id, span: [scene.things[0].x, scene.things[0].y],
}


def require(source: str) -> None:
    """Raises DataError for what the demo world does not tell."""
    if source not in (*SIGNALS, "first_frame"):
        raise DataError(
            f"The demo world does not tell {source!r}. It tells: first_frame, {', '.join(SIGNALS)}. Name one of them "
            "as the condition's source."
        )
