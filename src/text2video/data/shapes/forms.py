"""Which shape a soft region has, and at what angle: its picture in polar coordinates against that of every shape.

Around the centre of its area, with radii in units of the root of that area, a picture `a(r, angle)` does not depend on
place or size, and a turned one is a shifted one: its agreement with a shape at every angle at once is a circular
correlation, taken by the fast Fourier transform. Area and centre do not change under blur; the ideal shapes are kept at
several blurs, so that a soft, generated video is measured like a sharp one.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .outlines import DIGITS, ROUND, signed_distance

SHAPES = ("square", "circle", "triangle", "star", "heart", "ring", "cross", *DIGITS, "moon")

_PARTS = 4  # the shape must hold in every quarter of the clip
_AGREES = 0.9  # with its ideal picture, at least
_STRETCH = 0.04  # the mean of z^2 in areas, of an ellipse of 1.27 to 1
ANGLES = 72
_RINGS = 14
_FARTHEST = 1.5  # in roots of the area
_BLURS = (0.06, 0.16, 0.28)  # standard deviations, in roots of the area
_SCALES = (0.94, 1.0, 1.06)  # what a soft edge cut off may have done to the area
_TEMPLATE = 96  # pixels of a side on which the ideal shapes are drawn
_SPAN = 2.0  # from the middle to the side of it, in radii

_SYMMETRY = {"square": 4, "triangle": 3, "star": 5, "cross": 4}  # so often a shape looks the same in a full turn


@dataclass(frozen=True)
class Form:
    """Geometry per frame, in sides of its middle square: area `[N]`, centre `[N]` (x + iy), how stretched it is,
    and how well each shape agrees at each angle `[N, S, ANGLES]`, 1 at best."""

    area: np.ndarray
    centre: np.ndarray
    stretch: np.ndarray
    agreement: np.ndarray

    def at(self, frames: np.ndarray) -> "Form":
        return Form(self.area[frames], self.centre[frames], self.stretch[frames], self.agreement[frames])


@dataclass(frozen=True)
class _Ideals:
    area: np.ndarray  # [S], of radius 1
    offset: np.ndarray  # [S], from the origin to the centre of area, complex, of radius 1
    stretch: np.ndarray  # [S], complex
    spectra: np.ndarray  # [ANGLES // 2 + 1, RINGS, S * K]: conjugate, normalised


def measure(alpha: np.ndarray) -> Form:
    """The form of one thing in frames `[N, H, W]` of its cover."""
    h, w = alpha.shape[1:]
    side = min(h, w)
    total, centre = _centre(alpha)
    stretch = _stretch(alpha, total, centre)
    polar = _polar(alpha, centre, np.sqrt(total))
    polar = polar * _weights()[:, None]
    polar /= np.linalg.norm(polar, axis=(1, 2), keepdims=True) + 1e-9
    spectra = np.fft.rfft(polar, axis=2)  # [N, R, F]
    product = spectra.transpose(2, 0, 1) @ ideals().spectra  # [F, N, S * K]
    agreement = np.fft.irfft(product, ANGLES, axis=0)  # [ANGLES, N, S * K]
    agreement = agreement.reshape(ANGLES, len(alpha), len(SHAPES), -1).max(-1)
    corner = (w - side + 1j * (h - side)) / 2  # of the middle square
    return Form(total / side**2, (centre - corner) / side, stretch, agreement.transpose(1, 2, 0))


def _centre(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The area in pixels and the centre in pixels of each frame."""
    h, w = alpha.shape[1:]
    total = np.maximum(alpha.sum((1, 2)), 1e-6)
    x = (alpha.sum(1) * (np.arange(w) + 0.5)).sum(1) / total
    y = (alpha.sum(2) * (np.arange(h) + 0.5)).sum(1) / total
    return total, x + 1j * y


def _stretch(alpha: np.ndarray, total: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The mean of z^2 in areas: 0 of what is as long as wide. A blur does not change it."""
    h, w = alpha.shape[1:]
    x = np.arange(w) + 0.5 - np.real(centre)[:, None]
    y = np.arange(h) + 0.5 - np.imag(centre)[:, None]
    xx, yy = (alpha.sum(1) * x**2).sum(1), (alpha.sum(2) * y**2).sum(1)
    xy = np.einsum("nhw,nh,nw->n", alpha, y, x)
    return (xx - yy + 2j * xy) / total**2


def _polar(alpha: np.ndarray, centre: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """The frames in polar coordinates: `[N, RINGS, ANGLES]`, bilinear, 0 outside."""
    n, h, w = alpha.shape
    radius = _FARTHEST * (np.arange(_RINGS) + 0.5) / _RINGS
    angle = 2 * np.pi * np.arange(ANGLES) / ANGLES
    z = centre[:, None, None] + unit[:, None, None] * radius[:, None] * np.exp(1j * angle)  # [N, R, A]
    x, y = np.clip(z.real + 0.5, 0, w), np.clip(z.imag + 0.5, 0, h)  # in the padded picture below
    padded = np.pad(alpha, ((0, 0), (1, 1), (1, 1))).reshape(n, -1)
    left, top = np.minimum(x.astype(int), w), np.minimum(y.astype(int), h)
    fx, fy = x - left, y - top
    corner = top * (w + 2) + left
    rows = np.arange(n)[:, None, None]
    upper = padded[rows, corner] * (1 - fx) + padded[rows, corner + 1] * fx
    lower = padded[rows, corner + w + 2] * (1 - fx) + padded[rows, corner + w + 3] * fx
    return upper * (1 - fy) + lower * fy


def _weights() -> np.ndarray:
    return np.sqrt((np.arange(_RINGS) + 0.5) / _RINGS)


@lru_cache(1)
def ideals() -> _Ideals:
    grid = (np.arange(_TEMPLATE) + 0.5) / _TEMPLATE * 2 * _SPAN - _SPAN
    x, y = grid[None, :], grid[:, None]
    per = _TEMPLATE / (2 * _SPAN)  # pixels a radius
    areas, offsets, stretches, spectra = [], [], [], []
    for shape in SHAPES:
        distance = signed_distance(shape, x.astype(np.float32), y.astype(np.float32), np.ones((1, 1), np.float32))
        sharp = np.clip(0.5 - distance * per, 0, 1)[None]
        total, centre = _centre(sharp)
        areas.append(total[0] / per**2)
        offsets.append((centre[0] - (1 + 1j) * _TEMPLATE / 2) / per)
        stretches.append(_stretch(sharp, total, centre)[0])
        for blur in _BLURS:
            soft = blurred(sharp, blur * np.sqrt(total[0]))
            for scale in _SCALES:
                polar = _polar(soft, centre, np.sqrt(total) * scale)[0] * _weights()[:, None]
                spectra.append(np.conj(np.fft.rfft(polar / np.linalg.norm(polar), axis=1)))
    stacked = np.stack(spectra).transpose(2, 1, 0)  # [F, R, S * K]
    return _Ideals(np.array(areas), np.array(offsets), np.array(stretches), stacked)


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Pictures `[N, H, W]` blurred by `sigma` pixels, through the Fourier transform (what leaves at one side comes back
    at the other)."""
    fy, fx = np.fft.fftfreq(picture.shape[1])[:, None], np.fft.rfftfreq(picture.shape[2])
    response = np.exp(-2 * (np.pi * sigma) ** 2 * (fx**2 + fy**2))
    return np.fft.irfft2(np.fft.rfft2(picture) * response, picture.shape[1:])


def turned(form: Form, shape: str) -> np.ndarray:
    """The angle `[N]` in radians, clockwise, of a shape in each frame, without jumps; 0 where it cannot be seen."""
    if shape in ROUND:
        return np.zeros(len(form.area))
    period = 2 * np.pi / _SYMMETRY.get(shape, 1)
    angle = form.agreement[:, SHAPES.index(shape)].argmax(-1) * 2 * np.pi / ANGLES
    return np.unwrap(angle, period=period)


def shape_of(form: Form, shapes: tuple[str, ...]) -> tuple[str, bool]:
    """The shape that agrees best over all frames, and whether it is that: well enough, in every part of the clip."""
    known = [SHAPES.index(shape) for shape in shapes]
    scores = form.agreement[:, known].max(-1)  # [N, shapes]
    best = int(scores.mean(0).argmax())
    ideal = ideals().stretch[known[best]]
    angle = form.agreement[:, known[best]].argmax(-1) * 2 * np.pi / ANGLES
    stretched = form.stretch * np.exp(-2j * angle) - ideal
    limit = _STRETCH + abs(ideal) / 5
    for part in np.array_split(np.arange(len(scores)), min(_PARTS, len(scores))):
        mean = scores[part].mean(0)
        if mean.argmax() != best or mean[best] < _AGREES or abs(stretched[part].mean()) > limit:
            return shapes[best], False
    return shapes[best], True


def radius_of(form: Form, shape: str) -> np.ndarray:
    """The radius `[N]`, in frame sides, of a shape with this area."""
    return np.sqrt(form.area / ideals().area[SHAPES.index(shape)])


def origin_of(form: Form, shape: str) -> np.ndarray:
    """Where an upright shape's origin is `[N]`, in frame sides, seen from its centre of area."""
    return form.centre - ideals().offset[SHAPES.index(shape)] * radius_of(form, shape)
