"""What a video of the demo world shows, read from its pixels by plain geometry, and whether a prompt asked for that.

Things are the bright regions on a dim background. With `a` a region's soft mask and `z = x + iy` seen from its
centre, the moments `M_n = sum(a z^n) / sum(a)` tell the shapes apart: a triangle has `M_3`, a square `M_4`, a circle
neither, and their phase is the angle. `z^n` is harmonic, so by the mean value property these moments do not change
under an isotropic blur: a soft, generated video is measured like a sharp one.
"""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from .outlines import SQUARE, TRIANGLE, signed_distance
from .parsing import Ask, Request, parse
from .things import DIRECTIONS, DISTANCE, GROWTH, RADIUS, TURN
from .things import PALETTE as _PALETTE
from .worlds import SMALL

PALETTE = {name: _PALETTE[name] for name in SMALL.colours}
_AREA = {"circle": math.pi, "square": 4 * SQUARE**2, "triangle": math.sqrt(27) / 4 * TRIANGLE**2}  # of radius 1
_M3, _M4 = 0.376, 0.1645  # |M_3| of a triangle and |M_4| of a square, in units of sqrt(area / pi)
_SPREAD = {"circle": 0.5, "square": math.pi / 6, "triangle": math.pi / math.sqrt(27)}  # mean of |z|^2, in area / pi
_BLUR = 0.04  # standard deviation in frame sides, at most
_CHROMA = np.array([np.array(rgb) / max(rgb) for rgb in PALETTE.values()], np.float32)  # [8, 3], brightness left out
_CHROMA_LIMIT = 0.24  # the nearest two of the palette are 0.35 apart
_FAINT = 0.12  # a cover under this is taken for the background's pattern
_CONTRAST = 60  # grey levels between a thing and its background, at least
_SMALLEST = 0.015  # of the frame's area: less is a speck (the smallest thing covers 0.04)
_PURE = 0.7  # of a thing's inner pixels have its colour
_OVERLAP = 0.72  # of a region with the ideal shape put over it (intersection over union)
_STRETCH = 0.12  # |M_2| of an ellipse of 1.27 to 1; that of our shapes is 0
_STRAY = 0.06  # frame sides, how far a thing's place may be from a steady course
_UNEVEN = 0.3  # the same of the logarithm of its radius
_WOBBLE = math.radians(20)  # and of its angle
_PARTS = 4  # colour and shape must hold in every quarter of the clip


@dataclass(frozen=True)
class SeenThing:
    """One thing as seen; None is what could not be told, with the reason in `why`."""

    colour: str | None
    shape: str | None
    motion: str | None
    size: str | None
    speed: str | None
    why: str = ""


@dataclass(frozen=True)
class Seen:
    """A video as seen: its things (none where their number is not the same all along) and its background."""

    things: tuple[SeenThing, ...]
    background: str | None
    why: str = ""


def check(frames: np.ndarray, prompt: str | Request) -> dict[str, bool]:
    """Whether the video shows what the prompt asks for, attribute by attribute.

    `frames` is uint8 `[T, H, W, 3]`. The keys are the attributes that the prompt states: `colour`, `shape`, `motion`
    and perhaps `size`, `speed`, `background`; with two things each has its number, `1.colour` to `2.speed`. More things
    than were asked for make every attribute of a thing false. Raises DataError for a prompt outside the grammar.
    """
    request = parse(prompt) if isinstance(prompt, str) else prompt
    seen = describe(frames)
    results: dict[str, bool] = {}
    found = _matched(request, seen)
    for number, (ask, thing) in enumerate(zip(request.things, found, strict=True), 1):
        prefix = f"{number}." if len(request.things) > 1 else ""
        results |= {prefix + name: value for name, value in _compared(ask, thing).items()}
    if request.background is not None:
        results["background"] = seen.background == request.background
    return results


def _compared(ask: Ask, thing: SeenThing | None) -> dict[str, bool]:
    stated = {name: value for name, value in vars(ask).items() if value is not None}
    return {name: thing is not None and getattr(thing, name) == value for name, value in stated.items()}


def _matched(request: Request, seen: Seen) -> list[SeenThing | None]:
    """For each thing asked for the one that is seen, in the pairing that agrees best."""
    asked = len(request.things)
    if len(seen.things) > asked:
        return [None] * asked
    things = [*seen.things, *[None] * (asked - len(seen.things))]
    orders = [things, things[::-1]]
    return max(
        orders, key=lambda o: sum(sum(_compared(*pair).values()) for pair in zip(request.things, o, strict=True))
    )


def describe(frames: np.ndarray) -> Seen:
    """What uint8 frames `[T, H, W, 3]` show, in the words of the demo world. A single frame shows no motion."""
    pictures = _reduced(frames)
    mask = _bright(pictures)
    things, why = _tracked(mask)  # [K, T, H, W]
    reach = 1 + round(min(mask.shape[1:]) / 32)  # how far a soft edge reaches beyond the mask
    near = _grown(mask, reach + 1)
    ground, background = _background(pictures, ~near)
    seen = []
    wide = [_grown(thing, reach) for thing in things]
    for k, thing in enumerate(things):
        rivals = [~other for j, other in enumerate(wide) if j != k]
        around = np.logical_and.reduce([wide[k], *rivals]) | thing
        seen.append(_describe_thing(pictures, thing, around, ground))
    return Seen(tuple(seen), background, why)


def _reduced(frames: np.ndarray) -> np.ndarray:
    """Float frames, large ones averaged over blocks until the shorter side has 32 to 63 pixels, which is enough."""
    frames = np.asarray(frames)
    factor = max(1, min(frames.shape[1:3]) // 32)
    t, h, w = frames.shape[0], frames.shape[1] // factor, frames.shape[2] // factor
    if factor > 1:
        frames = frames[:, : h * factor, : w * factor].reshape(t, h, factor, w, factor, 3).mean((2, 4))
    return frames.astype(np.float32)


# --- regions ----------------------------------------------------------------------------------------------------


def _bright(pictures: np.ndarray) -> np.ndarray:
    """The pixels `[T, H, W]` that belong more to a thing than to the background."""
    value = pictures.max(-1)
    dim, bright = np.percentile(value, (25, 99), axis=(1, 2))
    level = np.where(bright - dim < _CONTRAST, np.inf, (dim + bright) / 2)
    return value > level[:, None, None]


def _components(mask: np.ndarray) -> np.ndarray:
    """Each region of each frame gets the largest index in it as its label, from 1; 0 outside. 4-connected."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        grown = labels.copy()
        for axis in (1, 2):
            low, high = [slice(None)] * 3, [slice(None)] * 3
            low[axis], high[axis] = slice(None, -1), slice(1, None)
            a, b = tuple(low), tuple(high)
            np.maximum(grown[a], labels[b], out=grown[a])
            np.maximum(grown[b], labels[a], out=grown[b])
        grown *= mask
        table = np.concatenate([[0], grown.ravel()])
        grown = table[grown]  # a label is a pixel of the same region: jump to that pixel's own label
        if np.array_equal(grown, labels):
            return labels
        labels = grown


def _tracked(mask: np.ndarray) -> tuple[list[np.ndarray], str]:
    """The regions that are there in every frame, each as a mask `[T, H, W]`; none, and why, where that is unclear."""
    labels = _components(mask)
    smallest = _SMALLEST * min(mask.shape[1:]) ** 2
    frames: list[list[np.ndarray]] = []
    for picture in labels:
        names, areas = np.unique(picture[picture > 0], return_counts=True)
        order = [i for i in np.argsort(-areas) if areas[i] >= smallest]
        frames.append([picture == names[i] for i in order[:3]])
    counts = Counter(len(regions) for regions in frames)
    count = counts.most_common(1)[0][0]
    if count == 0:
        return [], "nothing stands out from the background"
    if count > 2:
        return [], "there are more than two things"
    if min(counts) < count or counts[count] < 0.9 * len(frames):
        return [], "the number of things changes"
    tracks = [frames[0][:count]]
    for regions in frames[1:]:
        last, now = ([_middle(r) for r in rs] for rs in (tracks[-1], regions[:count]))
        straight = sum(abs(a - b) for a, b in zip(last, now, strict=True))
        crossed = sum(abs(a - b) for a, b in zip(last, now[::-1], strict=True))
        tracks.append(regions[:count] if straight <= crossed else regions[:count][::-1])
    return [np.stack(track) for track in zip(*tracks, strict=True)], ""


def _middle(region: np.ndarray) -> complex:
    y, x = np.nonzero(region)
    return complex(x.mean(), y.mean())


def _grown(mask: np.ndarray, steps: int) -> np.ndarray:
    for _ in range(steps):
        wider = mask.copy()
        wider[:, 1:] |= mask[:, :-1]
        wider[:, :-1] |= mask[:, 1:]
        mask = wider.copy()
        mask[:, :, 1:] |= wider[:, :, :-1]
        mask[:, :, :-1] |= wider[:, :, 1:]
    return mask


def _background(pictures: np.ndarray, clear: np.ndarray) -> tuple[np.ndarray, str | None]:
    """The picture `[H, W, 3]` behind the things, and its kind.

    Where a thing hides it all along, the picture is a plane fitted to the rest.
    """
    times = clear.sum(0)[..., None]  # [H, W, 1]
    mean = (pictures * clear[..., None]).sum(0) / np.maximum(times, 1)
    free = times[..., 0] > 0
    if free.mean() < 0.1:
        return np.full_like(mean, 50), None
    h, w = free.shape
    y, x = np.mgrid[:h, :w] / min(h, w)
    basis = np.stack([np.ones_like(x), x, y], -1)  # [H, W, 3]
    fit = np.linalg.lstsq(basis[free], mean[free], rcond=None)[0]
    plane = (basis @ fit).astype(np.float32)
    ground = np.where(times > 0, mean, plane)
    flicker = ((pictures - mean) ** 2).mean(-1)[clear].mean() ** 0.5
    tint = np.ptp(mean[free].mean(0))
    if flicker > 12 or tint > 25 or mean[free].mean() > 110:
        return ground, None
    slope = float(np.hypot(*fit[1:].mean(1)))
    pattern = float((mean - plane)[free].mean(-1).std())
    if pattern > 3.5:
        return ground, "textured" if slope < 25 else None
    return ground, "gradient" if slope > 25 else "plain"


# --- one thing --------------------------------------------------------------------------------------------------


def _describe_thing(pictures: np.ndarray, mask: np.ndarray, around: np.ndarray, ground: np.ndarray) -> SeenThing:
    inner = mask & ~_grown(~mask, 1)
    inner = np.where(inner.sum((1, 2), keepdims=True) >= 4, inner, mask)
    colour = _colour(pictures, inner)
    own = (pictures * inner[..., None]).sum((1, 2)) / inner.sum((1, 2))[:, None]  # [T, 3]
    towards = own[:, None, None] - ground
    alpha = ((pictures - ground) * towards).sum(-1) / np.maximum((towards**2).sum(-1), 1)
    alpha = np.where(around & (alpha > _FAINT), np.minimum(alpha, 1), 0)
    form = _measure(alpha)
    shape = _shape(form)
    motion, speed, why = _motion(form)
    size = _size(form, shape) if motion not in ("growing", "shrinking") else None
    reasons = [] if colour else ["its colour is unclear or changes"]
    reasons += [] if shape else ["its shape is unclear or changes"]
    return SeenThing(colour, shape, motion, size, speed, "; ".join(reasons + ([why] if why else [])))


def _colour(pictures: np.ndarray, inner: np.ndarray) -> str | None:
    names = set()
    for part in np.array_split(np.arange(len(pictures)), min(_PARTS, len(pictures))):
        pixels = pictures[part][inner[part]]  # [N, 3]
        chroma = pixels / np.maximum(pixels.max(-1, keepdims=True), 1)
        distance = np.linalg.norm(chroma[:, None] - _CHROMA, axis=-1)  # [N, 8]
        nearest = np.where(distance.min(1) < _CHROMA_LIMIT, distance.argmin(1), len(_CHROMA))
        share = np.bincount(nearest, minlength=len(_CHROMA) + 1)[:-1] / len(pixels)
        names.add(list(PALETTE)[share.argmax()] if share.max() >= _PURE else None)
    return names.pop() if len(names) == 1 else None


@dataclass(frozen=True)
class _Form:
    """Geometry per frame: area and centre in frame sides, moments in units of sqrt(area / pi), and the overlap with
    each ideal shape."""

    area: np.ndarray
    centre: np.ndarray  # complex, x + iy
    m2: np.ndarray
    m3: np.ndarray
    m4: np.ndarray
    overlap: dict[str, np.ndarray]


def _measure(alpha: np.ndarray) -> _Form:
    h, w = alpha.shape[1:]
    side = min(h, w)
    y, x = (g / np.float32(side) for g in np.mgrid[:h, :w].astype(np.float32))
    total = np.maximum(alpha.sum((1, 2)), 1e-6)
    cx, cy = (alpha * x).sum((1, 2)) / total, (alpha * y).sum((1, 2)) / total
    dx, dy = x - cx[:, None, None], y - cy[:, None, None]
    area = total / side**2
    unit = np.sqrt(area / math.pi)
    z = dx + 1j * dy
    m2 = (alpha * z**2).sum((1, 2)) / total / unit**2
    weighted = alpha * z**3
    m3 = weighted.sum((1, 2)) / total / unit**3
    m4 = (weighted * z).sum((1, 2)) / total / unit**4
    spread = (alpha * abs(z) ** 2).sum((1, 2)) / total  # of the ideal shape, and twice the variance of its blur
    overlap = {}
    for shape, turn in (("circle", 0 * total), ("square", _square_angle(m4)), ("triangle", _triangle_angle(m3))):
        cos, sin = (f(turn).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
        radius = np.sqrt(area / _AREA[shape])[:, None, None]
        blur = np.clip((spread - _SPREAD[shape] * area / math.pi) / 2, 0, _BLUR**2)
        ramp = np.sqrt(12 * blur + side**-2)[:, None, None]  # an edge of this width has that variance
        distance = signed_distance(shape, cos * dx + sin * dy, cos * dy - sin * dx, radius)
        ideal = np.clip(0.5 - distance / ramp, 0, 1)
        overlap[shape] = np.minimum(alpha, ideal).sum((1, 2)) / np.maximum(alpha, ideal).sum((1, 2))
    return _Form(area, cx + 1j * cy, m2, m3, m4, overlap)


def _triangle_angle(m3: np.ndarray) -> np.ndarray:
    return np.angle(m3 / 1j) / 3  # an upright triangle has a corner at -i, whose cube is i


def _square_angle(m4: np.ndarray) -> np.ndarray:
    return np.angle(-m4) / 4  # the corners of an upright square lie on the diagonals, whose fourth power is -1


def _kind(form: _Form, part: np.ndarray | slice = slice(None)) -> str:
    """The shape that the moments are nearest to in some frames."""
    if abs(form.m3[part]).mean() > _M3 / 2:
        return "triangle"
    return "square" if abs(form.m4[part]).mean() > _M4 / 2 else "circle"


def _shape(form: _Form) -> str | None:
    names = set()
    for part in np.array_split(np.arange(len(form.area)), min(_PARTS, len(form.area))):
        name = _kind(form, part)
        fits = form.overlap[name][part].mean() > _OVERLAP and abs(form.m2[part]).mean() < _STRETCH
        names.add(name if fits else None)
    return names.pop() if len(names) == 1 else None


def _size(form: _Form, shape: str | None) -> str | None:
    radius = float(np.sqrt(form.area.mean() / _AREA[shape or "circle"]))
    if not RADIUS["small"] / 1.4 < radius < RADIUS["large"] * 1.4:
        return None
    return "small" if radius < math.sqrt(RADIUS["small"] * RADIUS["large"]) else "large"


# --- motion -----------------------------------------------------------------------------------------------------


def _motion(form: _Form) -> tuple[str | None, str | None, str]:
    """Motion, speed, and why there is no motion to name: exactly one of place, size and angle may change, steadily."""
    if len(form.area) < 2:
        return None, None, "one frame shows no motion"
    kind, log_radius = _kind(form), np.log(form.area) / 2
    turn = np.zeros(len(form.area))
    if kind == "triangle":
        turn = np.unwrap(3 * _triangle_angle(form.m3)) / 3
    elif kind == "square":
        turn = np.unwrap(4 * _square_angle(form.m4)) / 4
    (shift, stray), (growth, uneven), (turned, wobble) = (_course(v) for v in (form.centre, log_radius, turn))
    changes = {
        "place": (abs(shift), DISTANCE, form.centre),
        "size": (abs(growth), GROWTH, log_radius),
        "angle": (abs(turned), TURN, turn),
    }
    active = [name for name, (amount, speeds, _) in changes.items() if amount > speeds["slow"] / 2]
    if len(active) > 1:
        return None, None, f"its {' and its '.join(active)} change at once"
    # A small or round shape has no precise angle, so that its wobble matters only where it is said to rotate.
    if stray > _STRAY or uneven > _UNEVEN or (active == ["angle"] and wobble > _WOBBLE):
        return None, None, "it does not keep a steady course"
    if not active:
        return "still", None, ""
    amount, speeds, values = changes[active[0]]
    if not _steady(values):
        return None, None, f"its {active[0]} changes in one half of the clip only"
    speed = "slow" if amount < math.sqrt(speeds["slow"] * speeds["fast"]) else "fast"
    if active[0] == "size":
        return "growing" if growth.real > 0 else "shrinking", speed, ""
    if active[0] == "angle":
        return "rotating", speed, ""
    heading = {name: (shift * complex(x, -y)).real for name, (x, y) in DIRECTIONS.items()}
    return max(heading, key=heading.__getitem__), speed, ""


def _course(values: np.ndarray) -> tuple[complex, float]:
    """The change over the clip by a straight line fitted to the values, and the farthest any of them is from it."""
    u = np.linspace(-0.5, 0.5, len(values))
    rate = ((values - values.mean()) * u).sum() / (u * u).sum()
    return complex(rate), float(abs(values - values.mean() - rate * u).max())


def _steady(values: np.ndarray) -> bool:
    """Whether each half of the clip does at least a fifth of the whole change."""
    if len(values) < 4:
        return True
    whole, middle = values[-1] - values[0], values[len(values) // 2] - values[0]
    share = (middle * np.conj(whole)).real / max(abs(whole) ** 2, 1e-12)
    return bool(0.2 < share < 0.8)
