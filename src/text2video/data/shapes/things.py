"""What the demo world is made of: coloured things that move, before a dim background.

A scene is written in the unit square and in unit time, so every resolution and frame count shows the same clip.
"""

import math
from dataclasses import dataclass

import numpy as np

from . import outlines

PALETTE = {
    "red": (226, 48, 52),
    "orange": (248, 140, 30),
    "yellow": (250, 222, 60),
    "green": (58, 188, 86),
    "blue": (52, 104, 240),
    "purple": (148, 66, 214),
    "pink": (255, 140, 198),
    "white": (242, 242, 242),
    "cyan": (48, 212, 230),
    "lime": (150, 236, 36),
}
_D = math.sqrt(0.5)
DIRECTIONS = {  # unit vectors in image coordinates: x to the right, y down
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "up left": (-_D, -_D),
    "up right": (_D, -_D),
    "down left": (-_D, _D),
    "down right": (_D, _D),
}
BOUNCES = {f"bouncing {name}": DIRECTIONS[name] for name in ("left", "right", "up", "down")}  # there and back
ORBITS = {"orbiting clockwise": 1, "orbiting counterclockwise": -1}  # round the middle of the frame
CHANGING_COLOUR = "changing colour"
UNMOVED = ("still", CHANGING_COLOUR)  # these have no speed
RESIZED = ("growing", "shrinking")  # these have no size

RADIUS = {"small": 0.15, "large": 0.225}  # of the frame's shorter side
CHANGING_RADIUS = 0.2  # the geometric mean radius of what grows or shrinks; such a thing has no size of its own
DISTANCE = {"slow": 0.22, "fast": 0.44}  # frame sides travelled in a clip
BOUNCE = {"slow": 0.2, "fast": 0.4}  # frame sides to the edge, and as far back
GROWTH = {"slow": math.log(1.4), "fast": math.log(2.1)}  # log of the last radius over the first
TURN = {"slow": math.radians(60), "fast": math.radians(130)}  # clockwise; under 45 degrees a frame from 4 frames up
ORBIT = {"slow": math.radians(135), "fast": math.radians(300)}
CHANGE = (0.4, 0.6)  # the part of a clip in which a second colour takes over


@dataclass(frozen=True)
class Thing:
    """One moving shape. `x`, `y` is where its centre is halfway through the clip, in the unit square, y down.

    `size` is None for what grows or shrinks, `speed` is None for what stays where it is. `becomes` is the second colour
    of what changes its colour. `scale` multiplies the radius and `pace` the distances, where several share a frame.
    """

    colour: str
    shape: str
    motion: str
    size: str | None
    speed: str | None
    x: float = 0.5
    y: float = 0.5
    becomes: str | None = None
    scale: float = 1.0
    pace: float = 1.0

    @property
    def triple(self) -> tuple[str, str, str]:
        return self.colour, self.shape, self.motion

    @property
    def shift(self) -> tuple[float, float]:
        """How far the centre of what moves on a line gets from the first frame to the last, in frame sides."""
        dx, dy = DIRECTIONS.get(self.motion, (0.0, 0.0))
        distance = DISTANCE[self.speed] * self.pace if self.speed else 0.0
        return dx * distance, dy * distance

    def radius(self, u: np.ndarray) -> np.ndarray:
        """The radius at times `u` in [0, 1]."""
        if self.size is not None:
            return np.full_like(u, RADIUS[self.size] * self.scale)
        rate = GROWTH[self.speed or "slow"] * (1 if self.motion == "growing" else -1)
        return self.scale * CHANGING_RADIUS * np.exp(rate * (u - 0.5))

    def centre(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.course(u, self.x, self.y)

    def course(self, u: np.ndarray, x, y) -> tuple[np.ndarray, np.ndarray]:
        """Where the centre is at times `u` if halfway it is at `x`, `y`: numbers, or arrays that broadcast with `u`."""
        speed = self.speed or "slow"
        if self.motion in BOUNCES:
            dx, dy = BOUNCES[self.motion]
            away = BOUNCE[speed] * self.pace * abs(2 * u - 1)
            return x - dx * away, y - dy * away
        if self.motion in ORBITS:
            turned = ORBITS[self.motion] * ORBIT[speed] * (u - 0.5)
            cos, sin, x, y = np.cos(turned), np.sin(turned), x - 0.5, y - 0.5
            return 0.5 + cos * x - sin * y, 0.5 + sin * x + cos * y
        dx, dy = self.shift
        return x + dx * (u - 0.5), y + dy * (u - 0.5)

    def angle(self, u: np.ndarray) -> np.ndarray:
        """Radians turned clockwise; a shape stands upright at 0."""
        return u * (TURN[self.speed or "slow"] if self.motion == "rotating" else 0.0)

    def colours(self, u: np.ndarray) -> np.ndarray:
        """Its RGB in [0, 255] at times `u`: float32 `[T, 3]`."""
        first = np.array(PALETTE[self.colour], np.float32)
        if self.becomes is None:
            return np.broadcast_to(first, (len(u), 3))
        part = np.clip((u - CHANGE[0]) / (CHANGE[1] - CHANGE[0]), 0, 1).astype(np.float32)[:, None]
        return first + part * (np.array(PALETTE[self.becomes], np.float32) - first)

    @property
    def reach(self) -> float:
        """The farthest that any point of it ever is from its centre."""
        return outlines.reach(self.shape) * self._largest

    @property
    def extent(self) -> tuple[float, float, float]:
        """How far it reaches sideways, up and down from its centre at its largest."""
        if self.motion == "rotating":
            return self.reach, self.reach, self.reach
        return outlines.extent(self.shape, self._largest)

    @property
    def _largest(self) -> float:
        return float(self.radius(np.array([0.0, 1.0])).max())


@dataclass(frozen=True)
class Background:
    """A dim `kind` of background: `level` is its grey in [0, 255], `angle` and `phase` (radians) its pattern's, `tint`
    the hue (radians) of its faint colour, None for slate."""

    kind: str
    level: float = 50.0
    angle: float = 0.0
    phase: float = 0.0
    tint: float | None = None


@dataclass(frozen=True)
class Scene:
    """A few things, earlier ones in front, and what is behind them.

    `relation` is what the first thing is to the second, all along. With `shadows` the things are lit: they are shaded,
    and cast soft shadows.
    """

    things: tuple[Thing, ...]
    background: Background
    relation: str | None = None
    shadows: bool = False
