"""What a video of the demo world shows, read from its pixels alone, and whether a prompt asked for that.

Things are what stands out in colour from a dim ground (`regions`, `grounds`); each has a shape (`forms`) and a course
(`motions`), and what they are to one another follows from these.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from .forms import Form, measure, origin_of, radius_of, shape_of, turned
from .grounds import first_guess, ground_and_kind
from .motions import Course, motion_of
from .outlines import RING
from .parsing import Ask, Request, parse
from .regions import Track, grown, labelled, reduced, tracked
from .things import CHANGING_COLOUR, PALETTE, RADIUS, RESIZED, UNMOVED
from .worlds import WORLDS, World, WorldName

_CORE = 0.7  # the share of a thing's pixels that its colour is not taken from
_FAINT = 0.12  # a cover under this is taken for the background's pattern
_BLENDED = 0.25  # and near another thing, for its shading
_RIDGE = 0.01  # keeps apart two colours that lie in almost one direction
_SIZES = 1.4  # times larger or smaller than the world's, a thing has none of its sizes
_ASIDE, _DIAGONAL = (
    0.06,
    0.95,
)  # frame sides of distance, at least, and per frame side across, of what is beside another
_BLURRED = 0.98  # of its usual agreement with a shape: less where another touches it is left out
_PASSES = 0.15  # of a thing lies over the place of another that it passes in front of
_ENCLOSED = 0.35  # radii from the middle of a ring, at most, of what is inside it
_SIDES = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


@dataclass(frozen=True)
class SeenThing:
    """One thing as seen; None is what could not be told, with the reason in `why`."""

    colour: str | None
    shape: str | None
    motion: str | None
    size: str | None
    speed: str | None
    becomes: str | None = None
    why: str = ""


@dataclass(frozen=True)
class Seen:
    """A video as seen: its things (none where their number is not the same all along), its background, and each
    relation that holds, as (number of one thing, relation, number of the other), counted from 0."""

    things: tuple[SeenThing, ...]
    background: str | None
    relations: frozenset[tuple[int, str, int]] = frozenset()
    why: str = ""


def check(frames: np.ndarray, prompt: str | Request, world: WorldName = "small") -> dict[str, bool]:
    """Whether the video shows what the prompt asks for, attribute by attribute.

    `frames` is uint8 `[T, H, W, 3]`. The keys are the attributes that the prompt states: `colour`, `shape`, `motion`
    and perhaps `size`, `speed`, `becomes`; of several things each has its number, `1.colour` to `3.speed`. Of the whole
    scene they are `background`, `relation`, and `count` where equal things are asked for. More things than were asked
    for make every attribute of a thing false. Raises DataError for a prompt outside the grammar.
    """
    request = parse(prompt) if isinstance(prompt, str) else prompt
    seen = describe(frames, world)
    results: dict[str, bool] = {}
    found = _matched(request, seen)
    things = [None if k is None else seen.things[k] for k in found]
    for number, (ask, thing) in enumerate(zip(request.things, things, strict=True), 1):
        prefix = f"{number}." if len(request.things) > 1 else ""
        results |= {prefix + name: value for name, value in _compared(ask, thing).items()}
    if len(request.things) > 1 and len(set(request.things)) == 1:
        results["count"] = len(seen.things) == len(request.things)
    if request.relation is not None:
        results["relation"] = (found[0], request.relation, found[1]) in seen.relations
    if request.background is not None:
        results["background"] = seen.background == request.background
    return results


def _compared(ask: Ask, thing: SeenThing | None) -> dict[str, bool]:
    stated = {name: value for name, value in vars(ask).items() if value is not None}
    result = {name: thing is not None and getattr(thing, name) == value for name, value in stated.items()}
    if thing is not None and ask.becomes is None and thing.becomes is not None:
        result["colour"] = False  # it does not keep it
    return result


def _matched(request: Request, seen: Seen) -> list[int | None]:
    """For each thing asked for the number of the one that is seen, in the pairing that agrees best."""
    asked, there = len(request.things), len(seen.things)
    if there > asked:
        return [None] * asked
    agree = [[sum(_compared(ask, thing).values()) for thing in seen.things] for ask in request.things]
    numbers = [*range(there), *[None] * (asked - there)]

    def agreement(order: tuple[int | None, ...]) -> int:
        return sum(agree[k][number] for k, number in enumerate(order) if number is not None)

    return list(max(permutations(numbers), key=agreement))


def describe(frames: np.ndarray, world: WorldName = "small") -> Seen:
    """What uint8 frames `[T, H, W, 3]` show, in the words of a world. A single frame shows no motion."""
    rules = WORLDS[world]
    pictures = reduced(frames)
    paints = np.array([PALETTE[name] for name in rules.colours], np.float32)
    labels = labelled(pictures, first_guess(pictures), paints)
    tracks, why = tracked(labels)
    side = min(labels.shape[1:])
    reach = 1 + round(side / 32)  # how far a soft edge reaches beyond the mask
    near = grown(labels > 0, reach + 1)
    shade = max(1, side // 20) if rules.lit else 0  # how much farther a shadow reaches, to the right and below
    near[:, shade:, shade:] |= near[:, : near.shape[1] - shade, : near.shape[2] - shade]
    for track in tracks:  # while it turns from one colour to another it may look like ground
        near[track.paint < 0] |= grown(np.any(track.mask, axis=0), reach + 1)
    ground, background = ground_and_kind(pictures, ~near, rules.backgrounds)
    wide = [grown(track.mask, reach) for track in tracks]
    away = pictures - ground
    own = [_own_colours(away, track.mask) for track in tracks]
    covers = [_cover(away, k, wide, own) for k in range(len(tracks))]
    views = [_view(cover, track, rules, len(tracks)) for cover, track in zip(covers, tracks, strict=True)]
    things = tuple(view.thing for view in views)
    return Seen(things, background, frozenset(_relations(views)), why)


@dataclass(frozen=True)
class _View:
    """A thing, where it is (x + iy, frame sides) in every frame and its radius, and its pixels."""

    thing: SeenThing
    place: np.ndarray  # [T]
    radius: float
    mask: np.ndarray  # [T, H, W]


def _own_colours(away: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How far the colour of a thing is from the ground in each frame, `[T, 3]`.

    It is that of the part that stands out most, for the rest may be blended with the ground.
    """
    own = np.zeros((len(mask), 3), np.float32)
    for t in np.flatnonzero(mask.any((1, 2))):
        pixels = away[t][mask[t]]
        length = (pixels**2).sum(-1)
        own[t] = pixels[length >= np.quantile(length, _CORE)].mean(0)
    return own


def _cover(away: np.ndarray, k: int, wide: list[np.ndarray], own: list[np.ndarray]) -> np.ndarray:
    """How much of each pixel thing `k` covers: the way `away` `[T, H, W, 3]` from the ground to the thing's own colour.

    Near another thing it is the thing's part in the blend of both.
    """
    times, rows, columns = np.nonzero(wide[k])
    away, towards = away[times, rows, columns], own[k][times]  # [N, 3]
    length = np.maximum((towards**2).sum(-1), 1)
    part, least = (away * towards).sum(-1) / length, np.full(len(times), _FAINT)
    for j, other in enumerate(wide):
        near = other[times, rows, columns]
        if j == k or not near.any():
            continue
        beside = own[j][times[near]]
        aa, bb, ab = length[near], (beside**2).sum(-1), (towards[near] * beside).sum(-1)
        a, b = (away[near] * towards[near]).sum(-1), (away[near] * beside).sum(-1)
        part[near], least[near] = (bb * a - ab * b) / (aa * bb - ab**2 + _RIDGE * aa * bb), _BLENDED
    cover = np.zeros(wide[k].shape, np.float32)
    cover[times, rows, columns] = np.where(part > least, np.minimum(part, 1), 0)
    return cover


def _view(cover: np.ndarray, track: Track, world: World, count: int) -> _View:
    """One thing of `count`, described from the frames in which all of it is seen.

    What is never seen whole stays where it is (`regions`), and is put together from all frames.
    """
    times = np.linspace(0, 1, len(cover)) if len(cover) > 1 else np.array([0.5])
    scale, pace = world.scales[min(count, len(world.scales)) - 1]
    whole = np.flatnonzero(track.whole)
    if len(whole) < min(3, len(cover)):
        form = measure(cover.max(0)[None])
        shape, certain = shape_of(form, world.shapes)
        place = origin_of(form, shape).repeat(len(times))
        motion, speed, why = "still", None, ""
    else:
        whole, form = _clearest(whole, measure(cover[whole]), track.apart[whole])
        shape, certain = shape_of(form, world.shapes)
        course = Course(times[whole], origin_of(form, shape), radius_of(form, shape), turned(form, shape))
        place = np.interp(times, course.u, course.place)
        motion, speed, why = motion_of(course, shape, world.motions, pace)
    colour, last = (world.colours[track.paint[track.paint >= 0][k]] for k in (0, -1))
    becomes = last if last != colour else None
    if becomes:
        motion, why = (CHANGING_COLOUR, why) if motion == "still" else (None, "it moves and changes its colour")
    radius = float(radius_of(form, shape).mean())
    size = _size(radius / scale) if motion not in RESIZED else None
    reasons = [] if certain else ["its shape is unclear or changes"]
    reasons += [why] if why else []
    thing = SeenThing(colour, shape if certain else None, motion, size, speed, becomes, "; ".join(reasons))
    return _View(thing, place, radius, track.mask)


def _clearest(frames: np.ndarray, form: Form, apart: np.ndarray) -> tuple[np.ndarray, Form]:
    """The frames, without those in which another thing touches this one and its shape is blurred by that; all of them
    where that leaves too few."""
    agreement = form.agreement.max((1, 2))
    clear = apart | (agreement > _BLURRED * np.median(agreement))
    if clear.sum() < max(3, len(frames) // 3):
        return frames, form
    return frames[clear], form.at(clear)


def _size(radius: float) -> str | None:
    if not RADIUS["small"] / _SIZES < radius < RADIUS["large"] * _SIZES:
        return None
    return "small" if radius < math.sqrt(RADIUS["small"] * RADIUS["large"]) else "large"


def _relations(views: list[_View]) -> Iterator[tuple[int, str, int]]:
    """Every (number, relation, number) that holds all along."""
    for (i, one), (j, other) in permutations(enumerate(views), 2):
        away = one.place - other.place
        dx, dy = np.real(away), np.imag(away)
        for name, (x, y) in _SIDES.items():
            along, across = x * dx + y * dy, y * dx + x * dy
            if (along > np.maximum(_ASIDE, _DIAGONAL * abs(across))).all():
                yield i, name, j
        fits = other.thing.shape == "ring" and one.radius < other.radius * RING[0]
        if fits and (abs(away) < _ENCLOSED * other.radius).all():
            yield i, "inside", j
        over = (one.mask & other.mask.any(0)).sum((1, 2)) / np.maximum(one.mask.sum((1, 2)), 1)
        if other.thing.motion in UNMOVED and over.max() > _PASSES:
            yield i, "in front of", j
