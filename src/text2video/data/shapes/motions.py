"""How one thing moves: its place, its size or its angle follows one of the world's courses, steadily.

A course is fitted by least squares: the place is a line, a line there and back, or an arc round the middle of the
frame; the logarithm of the radius and the angle are lines.
"""

import math
from dataclasses import dataclass

import numpy as np

from . import outlines
from .things import BOUNCE, BOUNCES, DIRECTIONS, DISTANCE, GROWTH, ORBIT, ORBITS, TURN

_MIDDLE = 0.5 + 0.5j  # of the frame
_STRAY = 0.06  # frame sides, how far a thing's place may be from a steady course
_UNEVEN = 0.3  # the same of the logarithm of its radius
_WOBBLE = math.radians(20)  # and of its angle
_FAR = 0.12  # frame sides from the frame's middle, at least, of what orbits it
_NEAR = 0.2  # frame sides from the frame's edge, at most, of what bounces off it


@dataclass(frozen=True)
class Course:
    """What is known of a thing at times `u` in [0, 1]: its place (x + iy, frame sides), radius and angle, all `[N]`."""

    u: np.ndarray
    place: np.ndarray
    radius: np.ndarray
    angle: np.ndarray


@dataclass(frozen=True)
class _Fit:
    amount: complex  # how much it changes, in its own unit
    stray: float  # how far any value is from the course
    progress: np.ndarray  # from 0 to 1


def motion_of(
    course: Course, shape: str, motions: tuple[str, ...], pace: float = 1.0
) -> tuple[str | None, str | None, str]:
    """Which of `motions`, its speed, and why there is none to name: exactly one of place, size and angle may change,
    steadily. Distances are multiplied by `pace`."""
    if len(course.u) < 2:
        return None, None, "one frame shows no motion"
    growth, turn = _fitted(course.u, np.log(course.radius)), _fitted(course.u, course.angle)
    kind, place, speeds = _place(course, motions)
    changes = {
        "place": (place, speeds, 1.0 if kind == "orbit" else pace),
        "size": (growth, GROWTH, 1.0),
        "angle": (turn, TURN, 1.0),
    }
    active = [name for name, (fit, slow, scale) in changes.items() if abs(fit.amount) > slow["slow"] * scale / 2]
    if len(active) > 1:
        return None, None, f"its {' and its '.join(active)} change at once"
    # A small or round shape has no precise angle, so that its wobble matters only where it is said to rotate.
    if place.stray > _STRAY or growth.stray > _UNEVEN or (active == ["angle"] and turn.stray > _WOBBLE):
        return None, None, "it does not keep a steady course"
    if not active:
        return "still", None, ""
    fit, speeds, scale = changes[active[0]]
    if not _steady(course.u, fit.progress, there_and_back=active == ["place"] and kind == "bounce"):
        return None, None, f"its {active[0]} changes in a part of the clip only"
    speed = "slow" if abs(fit.amount) < scale * math.sqrt(speeds["slow"] * speeds["fast"]) else "fast"
    if active[0] == "size":
        return "growing" if growth.amount.real > 0 else "shrinking", speed, ""
    if active[0] == "angle":
        return "rotating", speed, ""
    if kind == "orbit":
        way = 1 if fit.amount.real > 0 else -1
        return next(name for name, sense in ORBITS.items() if sense == way), speed, ""
    if kind == "line":
        return _heading(fit.amount, DIRECTIONS), speed, ""
    motion = _heading(fit.amount, BOUNCES)
    if not _at_edge(course, shape, BOUNCES[motion]):
        return None, None, "it turns back before the edge of the frame"
    return motion, speed, ""


def _place(course: Course, motions: tuple[str, ...]) -> tuple[str, _Fit, dict[str, float]]:
    """The course, of those that a place may take, that it keeps to best, and its speeds."""
    line = _fitted(course.u, course.place)
    fold = _fitted(1 - abs(2 * course.u - 1), course.place)
    radius, angle = abs(course.place - _MIDDLE), np.unwrap(np.angle(course.place - _MIDDLE))
    arc = _fitted(course.u, angle)
    ideal = _MIDDLE + radius.mean() * np.exp(1j * (angle.mean() + arc.amount.real * (course.u - course.u.mean())))
    arc = _Fit(arc.amount, float(abs(course.place - ideal).max()), arc.progress)
    fits = [("line", line, DISTANCE)]
    if not BOUNCES.keys().isdisjoint(motions):
        fits.append(("bounce", fold, BOUNCE))
    if not ORBITS.keys().isdisjoint(motions) and radius.min() > _FAR and abs(arc.amount) > ORBIT["slow"] / 2:
        fits.append(("orbit", arc, ORBIT))
    return min(fits, key=lambda fit: fit[1].stray)


def _fitted(shape: np.ndarray, values: np.ndarray) -> _Fit:
    """The amount of a course of this shape in the values, by least squares."""
    s, v = shape - shape.mean(), values - values.mean()
    amount = complex((v * s).sum() / max((s * s).sum(), 1e-9))
    progress = (v * np.conj(amount)).real / max(abs(amount) ** 2, 1e-12)
    return _Fit(amount, float(abs(v - amount * s).max()), progress - progress[0])


def _steady(u: np.ndarray, progress: np.ndarray, there_and_back: bool) -> bool:
    """Whether each half of the way does at least a fifth of the whole change."""
    if there_and_back:
        middle = int(abs(u - 0.5).argmin())
        return _steady(u[: middle + 1], progress[: middle + 1], False) and _steady(u[middle:], progress[middle:], False)
    if len(u) < 4:
        return True
    whole, half = progress[-1] - progress[0], np.interp((u[0] + u[-1]) / 2, u, progress) - progress[0]
    return bool(0.2 < half / whole < 0.8) if whole else False


def _heading(shift: complex, directions: dict[str, tuple[float, float]]) -> str:
    ahead = {name: (shift * complex(x, -y)).real for name, (x, y) in directions.items()}
    return max(ahead, key=ahead.__getitem__)


def _at_edge(course: Course, shape: str, towards: tuple[float, float]) -> bool:
    """Whether a thing that turns back halfway is at the frame's edge then."""
    middle = int(abs(course.u - 0.5).argmin())
    side, above, below = outlines.extent(shape, float(course.radius[middle]))
    x, y = towards
    reach = side if x else above if y < 0 else below
    place = course.place[middle]
    ahead = {(-1, 0): place.real, (1, 0): 1 - place.real, (0, -1): place.imag, (0, 1): 1 - place.imag}
    return ahead[round(x), round(y)] - reach < _NEAR
