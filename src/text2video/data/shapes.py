"""The demo world: coloured shapes that move before a dim background, with captions that are true by construction.

A scene is written in the unit square and in unit time, so every resolution and frame count shows the same clip.
Whole (colour, shape, motion) triples are held out of training, while each pair of the three is trained.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from .. import video
from ..errors import DataError
from .shapes_captions import prompt

Split = Literal["train", "heldout"]

PALETTE = {
    "red": (226, 48, 52),
    "orange": (248, 140, 30),
    "yellow": (250, 222, 60),
    "green": (58, 188, 86),
    "blue": (52, 104, 240),
    "purple": (148, 66, 214),
    "pink": (255, 140, 198),
    "white": (242, 242, 242),
}
SHAPES = ("square", "circle", "triangle")
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
MOTIONS = (*DIRECTIONS, "growing", "shrinking", "rotating", "still")
BACKGROUNDS = ("plain", "gradient", "textured")

RADIUS = {"small": 0.15, "large": 0.225}  # of the frame's shorter side
CHANGING_RADIUS = 0.2  # the geometric mean radius of what grows or shrinks; such a thing has no size of its own
DISTANCE = {"slow": 0.22, "fast": 0.44}  # frame sides travelled in a clip
GROWTH = {"slow": math.log(1.4), "fast": math.log(2.1)}  # log of the last radius over the first
TURN = {"slow": math.radians(60), "fast": math.radians(130)}  # clockwise; under 45 degrees a frame from 4 frames up
SQUARE = 0.9  # half a square's side, in radii
TRIANGLE = 1.3  # a triangle's circumradius, in radii

_WANDER = 0.1  # frame sides from the middle, at most, of a thing that is alone, halfway through its clip, if it fits
_MARGIN = 0.02  # kept free along the frame's edge
_GAP = 0.08  # kept free between two things


@dataclass(frozen=True)
class Thing:
    """One moving shape. `x`, `y` is where its centre is halfway through the clip, in the unit square, y down.

    `size` is None for what grows or shrinks, `speed` is None for what stays still.
    """

    colour: str
    shape: str
    motion: str
    size: str | None
    speed: str | None
    x: float = 0.5
    y: float = 0.5

    @property
    def triple(self) -> tuple[str, str, str]:
        return self.colour, self.shape, self.motion

    @property
    def shift(self) -> tuple[float, float]:
        """How far the centre moves from the first frame to the last, in frame sides."""
        dx, dy = DIRECTIONS.get(self.motion, (0.0, 0.0))
        distance = DISTANCE[self.speed] if self.speed else 0.0
        return dx * distance, dy * distance

    def radius(self, u: np.ndarray) -> np.ndarray:
        """The radius at times `u` in [0, 1]."""
        if self.size is not None:
            return np.full_like(u, RADIUS[self.size])
        rate = GROWTH[self.speed or "slow"] * (1 if self.motion == "growing" else -1)
        return CHANGING_RADIUS * np.exp(rate * (u - 0.5))

    def centre(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dx, dy = self.shift
        return self.x + dx * (u - 0.5), self.y + dy * (u - 0.5)

    def angle(self, u: np.ndarray) -> np.ndarray:
        """Radians turned clockwise; a shape stands upright at 0."""
        return u * (TURN[self.speed or "slow"] if self.motion == "rotating" else 0.0)

    @property
    def reach(self) -> float:
        """The farthest that any point of it ever is from its centre."""
        corner = {"circle": 1.0, "square": SQUARE * math.sqrt(2), "triangle": TRIANGLE}[self.shape]
        return corner * float(self.radius(np.array([0.0, 1.0])).max())

    @property
    def extent(self) -> tuple[float, float, float]:
        """How far it reaches sideways, up and down from its centre at its largest."""
        reach = self.reach
        if self.shape == "circle" or self.motion == "rotating":
            return reach, reach, reach
        if self.shape == "square":
            half = reach * math.sqrt(0.5)
            return half, half, half
        return reach * math.sqrt(0.75), reach, reach / 2


@dataclass(frozen=True)
class Background:
    """A dim grey `kind` of background: `level` is its grey in [0, 255], `angle` and `phase` (radians) its pattern's."""

    kind: str
    level: float = 50.0
    angle: float = 0.0
    phase: float = 0.0


@dataclass(frozen=True)
class Scene:
    """One or two things, later ones in front, and what is behind them."""

    things: tuple[Thing, ...]
    background: Background


# --- which scenes there are -------------------------------------------------------------------------------------


def is_held_out(colour: str, shape: str, motion: str) -> bool:
    """Whether this triple is never trained: about one in ten, and at most one in each (colour, motion) and
    (shape, motion) pair, so that every pair is seen in training."""
    c, s, m = list(PALETTE).index(colour), SHAPES.index(shape), MOTIONS.index(motion)
    return (c + 3 * s + 7 * m) % 10 == 0


def triples(split: Split) -> list[tuple[str, str, str]]:
    """Every (colour, shape, motion) of a split. A circle that rotates cannot be seen to, so there is none."""
    return [
        (colour, shape, motion)
        for colour in PALETTE
        for shape in SHAPES
        for motion in MOTIONS
        if (shape, motion) != ("circle", "rotating") and is_held_out(colour, shape, motion) == (split == "heldout")
    ]


def random_scene(rng: np.random.Generator, split: Split = "train", max_objects: int = 1) -> Scene:
    """A scene of one to `max_objects` (1 or 2) things whose triples all belong to `split`."""
    if max_objects not in (1, 2):
        raise DataError(f"max_objects is {max_objects}. A scene holds 1 or 2 things: ask for one of these.")
    choices = _triples(split)
    count = int(rng.integers(1, max_objects + 1))
    while True:
        picks = [choices[i] for i in rng.integers(len(choices), size=count)]
        if len({colour for colour, _, _ in picks}) < count:
            continue  # two things are told apart by their colours
        things = tuple(random_thing(rng, *pick) for pick in picks)
        placed = place(rng, things)
        if placed is not None:
            return Scene(placed, random_background(rng))


_triples = lru_cache(triples)


def random_thing(rng: np.random.Generator, colour: str, shape: str, motion: str) -> Thing:
    size = None if motion in ("growing", "shrinking") else str(rng.choice(list(RADIUS)))
    speed = None if motion == "still" else str(rng.choice(list(DISTANCE)))
    return Thing(colour, shape, motion, size, speed)


def random_background(rng: np.random.Generator, kind: str | None = None) -> Background:
    kind = kind or str(rng.choice(BACKGROUNDS))
    level = rng.uniform(30, 70) if kind == "plain" else rng.uniform(45, 60)
    return Background(kind, float(level), float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0, 2 * math.pi)))


def place(rng: np.random.Generator, things: tuple[Thing, ...]) -> tuple[Thing, ...] | None:
    """The things where they stay wholly in the frame and apart all the time; None if no such place was found.

    One that is alone passes near the middle, so that where it is, and when, already tells its motion.
    """
    alone = len(things) == 1
    tries = 1 if alone else 64
    spots = []  # of each thing, where its centre is halfway: [tries, 2]
    for thing in things:
        side, above, below = thing.extent
        dx, dy = (abs(d) / 2 + _MARGIN for d in thing.shift)
        low, high = np.array((side + dx, above + dy)), np.array((1 - side - dx, 1 - below - dy))
        if alone:
            low, high = np.clip(0.5 - _WANDER, low, high), np.clip(0.5 + _WANDER, low, high)
        spots.append(rng.uniform(low, high, (tries, 2)))
    best = 0
    if len(things) == 2:
        u = np.linspace(-0.5, 0.5, 9)[:, None]
        drift = u * (np.array(things[0].shift) - things[1].shift)  # [9, 2]
        between = np.linalg.norm((spots[0] - spots[1])[:, None] + drift, axis=-1).min(1)  # [tries]
        apart = between > things[0].reach + things[1].reach + _GAP
        if not apart.any():
            return None
        best = int(apart.argmax())
    return tuple(replace(t, x=float(s[best, 0]), y=float(s[best, 1])) for t, s in zip(things, spots, strict=True))


# --- pictures ---------------------------------------------------------------------------------------------------


def render(scene: Scene, num_frames: int = 16, height: int = 64, width: int = 64) -> np.ndarray:
    """The scene as uint8 `[T, H, W, 3]`, anti-aliased; in a frame that is not square it fills the middle square."""
    u = np.linspace(0, 1, num_frames) if num_frames > 1 else np.array([0.5])
    x, y, pixels = _grid(height, width)
    ground = _ground(scene.background, x, y)  # [H, W, 3]
    frames = np.broadcast_to(ground, (num_frames, height, width, 3))
    for thing in scene.things:
        cover = coverage(thing, u, x, y, pixels)[..., None]  # [T, H, W, 1]
        frames = frames + cover * (np.array(PALETTE[thing.colour], np.float32) - frames)
    return (frames + np.float32(0.5)).astype(np.uint8)


def coverage(thing: Thing, u: np.ndarray, x: np.ndarray, y: np.ndarray, pixels: int) -> np.ndarray:
    """How much of each pixel the thing covers at times `u`: float32 `[T, H, W]` in [0, 1], from its signed distance."""
    cx, cy = (c.astype(np.float32)[:, None, None] for c in thing.centre(u))
    radius = thing.radius(u).astype(np.float32)[:, None, None]
    x, y = x - cx, y - cy  # [1, W] -> [T, 1, W] and [H, 1] -> [T, H, 1]
    if thing.motion == "rotating":
        cos, sin = (f(thing.angle(u)).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
        x, y = cos * x + sin * y, cos * y - sin * x
    return np.clip(np.float32(0.5) - np.float32(pixels) * signed_distance(thing.shape, x, y, radius), 0, 1)


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Distance to the edge of an upright shape around the origin, negative inside; its corners are mitred."""
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - SQUARE * radius
    slant = np.float32(math.sqrt(0.75)) * abs(x) - np.float32(0.5) * y
    return np.maximum(slant, y) - TRIANGLE / 2 * radius


@lru_cache(8)
def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray, int]:
    pixels = min(height, width)
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / pixels + 0.5
    y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / pixels + 0.5
    return x[None, :], y[:, None], pixels


def _ground(background: Background, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    cos, sin = np.float32(math.cos(background.angle)), np.float32(math.sin(background.angle))
    p, q = cos * (x - 0.5) + sin * (y - 0.5), cos * (y - 0.5) - sin * (x - 0.5)  # [H, W]
    if background.kind == "gradient":
        pattern = 50 * p
    elif background.kind == "textured":
        wave = np.float32(2 * math.pi * 3)
        pattern = 15 * np.sin(wave * p + background.phase) * np.sin(wave * q + background.phase)
    else:
        pattern = np.zeros_like(p)
    grey = (background.level + pattern).astype(np.float32)
    return grey[..., None] * np.array([0.97, 1.0, 1.08], np.float32)  # a slate grey


# --- clips ------------------------------------------------------------------------------------------------------


def clip_id(index: int, split: Split = "train") -> str:
    return f"{split}-{index:06d}"


def seeded(*parts: object) -> np.random.Generator:
    """A generator that depends on `parts` alone, on every machine (Python's `hash` is salted)."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def make_clip(
    index: int, seed: int = 0, split: Split = "train", max_objects: int = 1, epoch: int = 0
) -> tuple[Scene, str]:
    """Clip `index`: its scene, from (seed, split, index), and its caption, which also depends on the epoch."""
    name = clip_id(index, split)
    scene = random_scene(seeded("scene", seed, name, max_objects), split, max_objects)
    return scene, prompt(scene, seeded("caption", seed, epoch, name))


def write(
    folder: str | Path,
    clips: int,
    seed: int = 0,
    num_frames: int = 16,
    size: int = 64,
    fps: float = 8,
    max_objects: int = 1,
    split: Split = "train",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `clips` clips as `videos/NAME.mp4` and `captions/NAME.txt`, and their truth in `scenes.jsonl`.

    The folder appears when all of it is there. `progress(done, clips)` is called after every clip.
    Raises DataError when the folder holds something already, cannot be written, or the numbers make no clip.
    """
    folder = Path(folder)
    if clips < 1 or num_frames < 1 or size < 16:
        raise DataError(
            f"{clips} clips of {num_frames} frames at {size}x{size} pixels: a demo data set has at least one clip of "
            "one frame, and under 16 pixels the shapes cannot be told apart. Ask for larger numbers."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder} already holds something. A demo data set is written into a new or empty folder, so that "
            "nothing is overwritten or mixed: name another folder, or remove this one."
        )
    draft = folder.parent / f"tmp-{folder.name}-{os.getpid()}"
    try:
        for part in ("videos", "captions"):
            (draft / part).mkdir(parents=True)
        with (draft / "scenes.jsonl").open("w", encoding="utf-8", newline="\n") as truth:
            for index in range(clips):
                scene, caption = make_clip(index, seed, split, max_objects)
                name = clip_id(index, split)
                frames = render(scene, num_frames, size, size)
                video.write(draft / "videos" / f"{name}.mp4", frames, fps)
                text = draft / "captions" / f"{name}.txt"
                text.write_text(caption + "\n", encoding="utf-8", newline="\n")
                truth.write(json.dumps({"id": name, "caption": caption, **asdict(scene)}) + "\n")
                if progress is not None:
                    progress(index + 1, clips)
        if folder.exists():
            folder.rmdir()  # Windows does not rename onto an empty folder
        draft.rename(folder)
    except OSError as error:
        raise DataError(f"Cannot write the demo data set {folder}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


class ShapesDataset(Dataset):
    """The clips that `write` would write, drawn when they are asked for.

    `dataset[index]` or `dataset[index, epoch]` gives `video` (float32 `[3, T, H, W]` in [-1, 1]), `caption` (another
    wording every epoch), `id` and no `conditions`.
    """

    def __init__(
        self,
        num_clips: int,
        seed: int = 0,
        num_frames: int = 16,
        height: int = 64,
        width: int = 64,
        split: Split = "train",
        max_objects: int = 1,
    ) -> None:
        self.seed, self.max_objects = seed, max_objects
        self.split: Split = split
        self._shape = num_frames, height, width
        self.ids = [clip_id(index, split) for index in range(num_clips)]

    def __len__(self) -> int:
        return len(self.ids)

    def shape(self, index: int) -> tuple[int, int, int]:
        """(frames, height, width) of every item, as `TextVideoDataset.shape`."""
        return self._shape

    def caption(self, index: int) -> str:
        """The caption of clip `index` in epoch 0, without drawing the clip."""
        return make_clip(index, self.seed, self.split, self.max_objects)[1]

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        if not 0 <= index < len(self.ids):
            raise IndexError(f"clip {index} of {len(self.ids)}")
        scene, caption = make_clip(index, self.seed, self.split, self.max_objects, epoch)
        pixels = np.empty((3, *self._shape), np.float32)
        np.divide(render(scene, *self._shape).transpose(3, 0, 1, 2), np.float32(127.5), out=pixels)
        pixels -= 1
        return {"video": torch.from_numpy(pixels), "caption": caption, "id": self.ids[index], "conditions": {}}
