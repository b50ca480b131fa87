"""The worlds: which things there are, which of them are held out, and scenes drawn by chance.

Whole (colour, shape, motion) triples are held out of training, while each pair of the three is trained.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from ...errors import UsageError
from .outlines import DIGITS, ROUND
from .things import (
    BOUNCES,
    CHANGING_COLOUR,
    DIRECTIONS,
    DISTANCE,
    ORBITS,
    PALETTE,
    RADIUS,
    RESIZED,
    UNMOVED,
    Background,
    Scene,
    Thing,
)

Split = Literal["train", "heldout"]
WorldName = Literal["small", "full", "moon"]
Triple = tuple[str, str, str]

_WANDER = 0.1  # frame sides from the middle, at most, of a thing that is alone, halfway through its clip, if it fits
_MARGIN = 0.02  # kept free along the frame's edge
_TOUCH = 0.005  # and where a thing bounces
_GAP = 0.08  # kept free between two things
_CLEAR = 0.1  # frame sides that something is left of another, at least, to be said so
_AROUND = 1.25  # how much larger a ring is than its scene's things, so that one of them fits inside
_PASSING = 0.6 / DISTANCE["fast"]  # the pace of what passes in front of another
_TOGETHER = (*DIRECTIONS, *BOUNCES, *ORBITS, "still")  # motions that keep one thing inside another


@dataclass(frozen=True)
class World:
    """What there is. `scales` are, by the number of things in a scene, the factors of radii and of distances."""

    name: WorldName
    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    motions: tuple[str, ...]
    backgrounds: tuple[str, ...]
    relations: tuple[str, ...] = ()
    scales: tuple[tuple[float, float], ...] = ((1.0, 1.0), (1.0, 1.0))
    lit: bool = False  # shading, shadows and tinted backgrounds
    only: str | None = None  # the one shape that scenes are of; the others are there to be told from it

    def is_held_out(self, colour: str, shape: str, motion: str) -> bool:
        """Whether this triple is never trained: about one in ten, and of the colours at most one in each (shape,
        motion) pair, so that every pair is seen in training."""
        c, s, m = self.colours.index(colour), self.shapes.index(shape), self.motions.index(motion)
        return (c + 3 * s + 7 * m) % 10 == 0

    def triples(self, split: Split) -> list[Triple]:
        """Every (colour, shape, motion) of a split. A circle or ring that rotates cannot be seen to: there is none."""
        return [
            (colour, shape, motion)
            for colour in self.colours
            for shape in ((self.only,) if self.only else self.shapes)
            for motion in self.motions
            if not (shape in ROUND and motion == "rotating")
            and self.is_held_out(colour, shape, motion) == (split == "heldout")
        ]

    def require(self, max_objects: int) -> None:
        """Raises UsageError where a scene of this world cannot hold so many things."""
        if not 1 <= max_objects <= len(self.scales):
            numbers = [str(n) for n in range(1, len(self.scales) + 1)]
            hint = "" if len(self.scales) > 2 else " The world full holds up to 3."
            held = f"{', '.join(numbers[:-1])} or {numbers[-1]} things" if numbers[1:] else "1 thing"
            raise UsageError(
                f"max_objects is {max_objects}. A scene of the demo world {self.name} holds {held}: ask for that.{hint}"
            )


SMALL = World(
    name="small",
    colours=tuple(PALETTE)[:8],
    shapes=("square", "circle", "triangle"),
    motions=(*DIRECTIONS, *RESIZED, "rotating", "still"),
    backgrounds=("plain", "gradient", "textured"),
)
FULL = World(
    name="full",
    colours=tuple(PALETTE),
    shapes=("square", "circle", "triangle", "star", "heart", "ring", "cross", *DIGITS),
    motions=(*DIRECTIONS, *RESIZED, "rotating", "still", *BOUNCES, *ORBITS, CHANGING_COLOUR),
    backgrounds=("plain", "gradient", "textured", "striped", "checkered", "noisy"),
    relations=("left of", "right of", "above", "below", "inside", "in front of"),
    scales=((1.0, 1.0), (0.8, 0.75), (0.65, 0.65)),
    lit=True,
)
# A new word for a model of the small world: the same, and one more shape, which every scene is of.
MOON = replace(SMALL, name="moon", shapes=(*SMALL.shapes, "moon"), scales=SMALL.scales[:1], only="moon")
WORLDS: dict[str, World] = {world.name: world for world in (SMALL, FULL, MOON)}


def seeded(*parts: object) -> np.random.Generator:
    """A generator that depends on `parts` alone, on every machine (Python's `hash` is salted)."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def random_scene(rng: np.random.Generator, split: Split = "train", max_objects: int = 1, world: World = SMALL) -> Scene:
    """A scene of one to `max_objects` things whose triples all belong to `split`. Raises UsageError for too many."""
    world.require(max_objects)
    count = int(rng.integers(1, max_objects + 1))
    plan = _plan(rng) if world.relations and count > 1 else None
    radii, distances = world.scales[count - 1]
    while True:
        things = _cast(rng, world, split, count, plan)
        seen = [colour for thing in things for colour in (thing.colour, thing.becomes) if colour]
        if len(things) < count or (plan != "equal" and len(set(seen)) < len(seen)):
            continue  # things are told apart by their colours
        things = tuple(replace(t, scale=t.scale * radii, pace=t.pace * distances) for t in things)
        placed = place(rng, things, plan)
        if placed is not None:
            relation = plan if plan in world.relations else None
            if world.relations and count > 1 and plan is None and rng.random() < 0.8:
                relation = beside(placed[0], placed[1])
            return Scene(placed, random_background(rng, world=world), relation, world.lit)


def random_thing(rng: np.random.Generator, colour: str, shape: str, motion: str) -> Thing:
    size = None if motion in RESIZED else str(rng.choice(list(RADIUS)))
    speed = None if motion in UNMOVED else str(rng.choice(list(DISTANCE)))
    others = [other for other in PALETTE if other != colour]
    becomes = str(rng.choice(others)) if motion == CHANGING_COLOUR else None
    return Thing(colour, shape, motion, size, speed, becomes=becomes)


def random_background(rng: np.random.Generator, kind: str | None = None, world: World = SMALL) -> Background:
    kind = kind or str(rng.choice(world.backgrounds))
    level = rng.uniform(30, 70) if kind == "plain" else rng.uniform(45, 60)
    angle, phase = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0, 2 * math.pi))
    tint = float(rng.uniform(0, 2 * math.pi)) if world.lit else None
    return Background(kind, float(level), angle, phase, tint)


def _plan(rng: np.random.Generator) -> str | None:
    """How the things of a scene belong together: all equal, the first inside or in front of the second, or neither."""
    draw = rng.random()
    return "equal" if draw < 0.25 else "inside" if draw < 0.37 else "in front of" if draw < 0.5 else None


def _cast(rng: np.random.Generator, world: World, split: Split, count: int, plan: str | None) -> tuple[Thing, ...]:
    """The things of a scene, without their places; fewer where chance gave two of them one colour."""
    choices = _triples(world, split)
    if plan == "equal":
        return (random_thing(rng, *choices[int(rng.integers(len(choices)))]),) * count
    if plan is None:
        picks = [choices[i] for i in rng.integers(len(choices), size=count)]
        if len({colour for colour, _, _ in picks}) < count:
            return ()
        return tuple(random_thing(rng, *pick) for pick in picks)
    if plan == "inside":
        ring = random_thing(rng, *_one(rng, [t for t in choices if t[1] == "ring" and t[2] in _TOGETHER]))
        small = random_thing(rng, *_one(rng, [t for t in choices if t[1] != "ring" and t[2] == ring.motion]))
        pair = (replace(small, size="small", speed=ring.speed), replace(ring, size="large", scale=_AROUND))
    else:
        first = random_thing(rng, *_one(rng, [t for t in choices if t[2] in DIRECTIONS]))
        second = random_thing(rng, *_one(rng, [t for t in choices if t[2] == "still"]))
        pair = (replace(first, size="small", speed="fast", pace=_PASSING), second)
    return pair + _cast(rng, world, split, count - 2, None)


_triples = lru_cache(World.triples)


def _one(rng: np.random.Generator, choices: list[Triple]) -> Triple:
    return choices[int(rng.integers(len(choices)))]


def place(rng: np.random.Generator, things: tuple[Thing, ...], plan: str | None = None) -> tuple[Thing, ...] | None:
    """The things where they stay wholly in the frame and apart all the time; None if no such place was found.

    One that is alone passes near the middle, so that where it is, and when, already tells its motion. With `plan`
    "inside" or "in front of" the first two share a place halfway.
    """
    number = len(things)
    alone, tries = number == 1, {1: 1, 2: 64}.get(number, 256)
    spots = [_spots(rng, thing, tries, alone) for thing in things]  # of each thing [tries, 2]
    if plan in ("inside", "in front of"):
        first, second = things[:2]
        spots[:2] = [spots[1] if plan == "inside" else _within(second, _within(first, spots[0]))] * 2
    apart = np.ones(tries, bool)
    u = np.linspace(0, 1, 9)
    courses = [np.stack(t.course(u, s[:, :1], s[:, 1:]), -1) for t, s in zip(things, spots, strict=True)]
    for n in range(1, number):
        for m in range(n):
            if plan in ("inside", "in front of") and n == 1:
                continue
            between = np.linalg.norm(courses[m] - courses[n], axis=-1).min(1)  # [tries]
            apart &= between > things[m].reach + things[n].reach + _GAP * things[m].scale
    if not apart.any():
        return None
    best = int(apart.argmax())
    return tuple(replace(t, x=float(s[best, 0]), y=float(s[best, 1])) for t, s in zip(things, spots, strict=True))


def _bounds(thing: Thing, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest place halfway at which a thing never comes nearer to the frame's edge."""
    side, above, below = thing.extent
    dx, dy = (abs(d) / 2 + margin for d in thing.shift)
    return np.array((side + dx, above + dy)), np.array((1 - side - dx, 1 - below - dy))


def _within(thing: Thing, spots: np.ndarray) -> np.ndarray:
    return np.clip(spots, *_bounds(thing, _MARGIN))


def _spots(rng: np.random.Generator, thing: Thing, tries: int, alone: bool) -> np.ndarray:
    """Where a thing may be halfway: `[tries, 2]`."""
    low, high = _bounds(thing, _MARGIN)
    if alone:
        low, high = np.clip(0.5 - _WANDER, low, high), np.clip(0.5 + _WANDER, low, high)
    if thing.motion in ORBITS:
        farthest = min(0.36, 0.5 - _MARGIN - thing.reach)
        distance, angle = rng.uniform(0.75, 1, tries) * farthest, rng.uniform(0, 2 * math.pi, tries)
        return 0.5 + np.stack([np.cos(angle), np.sin(angle)], 1) * distance[:, None]
    spots = rng.uniform(low, high, (tries, 2))
    if thing.motion in BOUNCES:
        towards = np.array(BOUNCES[thing.motion])
        low, high = _bounds(thing, _TOUCH)
        spots = np.where(towards < 0, low, np.where(towards > 0, high, spots))
    return spots


def beside(first: Thing, second: Thing) -> str | None:
    """Where the first thing is from the second, if that is clear and the same all along."""
    u = np.linspace(0, 1, 9)
    (x0, y0), (x1, y1) = first.centre(u), second.centre(u)
    dx, dy = np.broadcast_to(x0 - x1, u.shape), np.broadcast_to(y0 - y1, u.shape)
    for relation, along, across in (("left of", -dx, dy), ("right of", dx, dy), ("above", -dy, dx), ("below", dy, dx)):
        if (along > np.maximum(_CLEAR, abs(across))).all():
            return relation
    return None
