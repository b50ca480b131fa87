"""Clips that show the same: found by locality-sensitive hashing, then compared; no set is compared pair by pair.

A signature is eight small pictures spread evenly over the clip. Two clips are near-duplicates when what stands still in
them is alike, and what moves is alike, and the colours are: one studio, two takes, are two clips. It sees through
another encoding, size, frame rate or brightness, and a border of a few percent cropped away. A part of a longer clip is
no duplicate of it.

Hashing is by the signs of random projections (Charikar, "Similarity Estimation Techniques from Rounding Algorithms",
2002): clips that are alike share at least one of a few tables' cells, others hardly ever do.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image

PICTURES, GREY, COLOUR = 8, 12, 4  # pictures of a signature, and the side of their brightness and their colours
Unpacked = tuple[np.ndarray, np.ndarray]  # brightness float `[P, G, G]` and colours float `[P, 2, C, C]`

_CROPS = [
    (border, x, y)
    for border in (0.03, 0.06, 0.09, 0.12)  # of the side, in all
    for x, y in ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
]
_STILL = 0.975, 0.99  # correlation of the mean pictures, at least; of bare ones
_MOVING = 0.93, 0.985  # correlation of what moves, at least; over bare pictures
_BARE = 9.0  # levels of detail, less than which a picture is bare: one thing or two before an even ground
_CROPPED = 0.92, 0.8  # the same, where one has to be cropped
_UNCROPPED = 0.6, 0.4  # and as they are, at least
_GAIN = 0.05  # of both together, that cropping has to bring
_TINT, _COLOURS = 9.0, 6.0  # levels that colours may be apart: of the whole, and from place to place
_FLAT = 3.0  # levels: a picture of less contrast shows nothing to compare
_QUIET = 1.0  # levels: less motion than this is noise
_NEAR = 0.7  # cosine of two points
_TABLES, _CROWD = 16, 48


def signature(times: np.ndarray, pictures: np.ndarray) -> str:
    """The signature of a clip in base64, from small pictures uint8 `[N, h, w, 3]` at increasing `times` in seconds."""
    places = times[0] + (times[-1] - times[0]) * (np.arange(PICTURES) + 0.5) / PICTURES
    after = np.searchsorted(times, places).clip(1, max(len(times) - 1, 1))
    before, after = after - 1, after.clip(max=len(times) - 1)
    span = np.maximum(times[after] - times[before], 1e-9)
    weight = ((places - times[before]) / span).clip(0, 1)[:, None, None, None]
    blended = pictures[before] * (1 - weight) + pictures[after] * weight
    grey, colour = [], []
    for picture in blended.round().astype(np.uint8):
        luma, *chroma = Image.fromarray(picture).convert("YCbCr").split()
        grey.append(np.asarray(luma.resize((GREY, GREY), Image.Resampling.BOX)))
        colour.append([np.asarray(part.resize((COLOUR, COLOUR), Image.Resampling.BOX)) for part in chroma])
    return base64.b64encode(np.stack(grey).tobytes() + np.array(colour, np.uint8).tobytes()).decode()


def near_duplicates(signatures: Mapping[str, str]) -> dict[str, str]:
    """Which clip repeats which: id -> the first clip, in the order given, that shows the same.

    Args:
        signatures: of clips by their ids. Clips that show nothing (black, one colour) are duplicates of none.
    """
    ids, clips = [], []
    for id, text in signatures.items():
        clip = _unpacked(text)
        if clip[0].mean(0).std() > _FLAT:
            ids.append(id)
            clips.append(clip)
    first: dict[int, int] = {}  # a clip -> an earlier one that shows the same
    for early, late in _candidates(clips):
        pair = _root(first, early), _root(first, late)
        if pair[0] != pair[1] and same(clips[early], clips[late]):
            first[max(pair)] = min(pair)
    return {ids[late]: ids[_root(first, late)] for late in sorted(first)}


def same(one: Unpacked, two: Unpacked) -> bool:
    """Whether two clips show the same; either may be cropped a little."""
    (grey, colour), (other_grey, other_colour) = one, two
    tint = np.abs(colour.mean((0, 2, 3)) - other_colour.mean((0, 2, 3))).max()
    if tint > _TINT or np.abs(colour - other_colour).mean() > _COLOURS:
        return False
    still, moving = _likeness(grey, other_grey)
    bare = min(_detail(grey), _detail(other_grey)) < _BARE
    if still > _STILL[bare] and moving > _MOVING[bare]:
        return True
    if bare or still < _UNCROPPED[0] or moving < _UNCROPPED[1]:
        return False  # one thing before an even ground: cropping and moving it are the same
    for a, b in ((grey, other_grey), (other_grey, grey)):
        for rows, columns in _WARPS:
            found = _likeness(a, rows @ b @ columns.T)
            # where cropping changes little, it explains no difference
            gain = min(found[0] - still, 1) + min(found[1] - moving, 1)
            if found[0] > _CROPPED[0] and found[1] > _CROPPED[1] and gain > _GAIN:
                return True
    return False


def _likeness(one: np.ndarray, two: np.ndarray) -> tuple[float, float]:
    """Correlation of what stands still, and of what moves, `[P, G, G]` each; 1 for two clips without motion."""
    still, other_still = one.mean(0), two.mean(0)
    moving, other_moving = one - still, two - other_still
    alike = _correlation(still, other_still)
    if max(moving.std(), other_moving.std()) < _QUIET:
        return alike, 1.0
    # what is darker moves in fewer levels
    motion, other_motion = moving.std() / still.std(), other_moving.std() / other_still.std()
    if max(motion, other_motion) > 1.6 * min(motion, other_motion):
        return alike, 0.0
    return alike, _correlation(moving, other_moving)


def _detail(grey: np.ndarray) -> float:
    """Median levels by which the mean picture differs from an even slope."""
    slope = _PLANE @ np.linalg.lstsq(_PLANE, grey.mean(0).ravel(), rcond=None)[0]
    return float(np.median(np.abs(grey.mean(0).ravel() - slope)))


def _correlation(one: np.ndarray, two: np.ndarray) -> float:
    a, b = one.ravel() - one.mean(), two.ravel() - two.mean()
    return float(a @ b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9)


def _warp(border: float, shift: float) -> np.ndarray:
    """`[GREY, GREY]` that samples a line of pixels again with `border` of it cut away: linear, from pixel centres."""
    places = ((np.arange(GREY) + 0.5) / GREY * (1 - border) + border / 2 * (1 + shift)) * GREY - 0.5
    return np.maximum(1 - np.abs(places.clip(0, GREY - 1)[:, None] - np.arange(GREY)), 0).astype(np.float32)


_PLANE = np.stack([np.ones(GREY * GREY), *np.indices((GREY, GREY)).reshape(2, -1)], axis=1).astype(np.float32)
_WARPS = [(_warp(border, y), _warp(border, x)) for border, x, y in _CROPS]


def _unpacked(text: str) -> Unpacked:
    values = np.frombuffer(base64.b64decode(text), np.uint8).astype(np.float32)
    size = PICTURES * GREY * GREY
    return values[:size].reshape(PICTURES, GREY, GREY), values[size:].reshape(PICTURES, 2, COLOUR, COLOUR)


def _candidates(clips: Sequence[Unpacked]) -> Iterator[tuple[int, int]]:
    """Pairs of clips, the earlier first, that fall into one cell of a table and are not far apart. Each pair once."""
    if len(clips) < 2:
        return
    points = np.stack([_point(grey, colour) for grey, colour in clips])
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9)
    bits = max(8, round(np.log2(len(points))) + 2)
    rng = np.random.default_rng(0)
    given: set[int] = set()
    for _ in range(_TABLES):
        signs = points @ rng.normal(0, 1, (points.shape[1], bits)).astype(np.float32) > 0
        keys = signs @ (1 << np.arange(bits, dtype=np.int64))
        order = np.lexsort((points[:, 0], keys))  # in a crowd only those near in one number are compared
        for step in range(1, _CROWD):
            one, two = order[:-step], order[step:]
            together = keys[one] == keys[two]
            if not together.any():
                break
            one, two = one[together], two[together]
            near = np.einsum("nd,nd->n", points[one], points[two]) > _NEAR
            for a, b in zip(one[near].tolist(), two[near].tolist(), strict=True):
                pair = (a, b) if a < b else (b, a)
                if (name := pair[0] * len(points) + pair[1]) not in given:
                    given.add(name)
                    yield pair


def _point(grey: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """A clip as a direction in space: still picture, motion and colours, coarse, without brightness and contrast."""
    still = grey.mean(0)
    moving = grey - still
    loud = min(1.0, max(0.0, float(moving.std()) / _QUIET - 1))
    coarse = [_pooled(still[None] - still.mean()), _pooled(moving) * loud, colour.mean(0) - 128]
    weights = (1.0, 1.0, 0.5)
    return np.concatenate([w * _unit(part.ravel()) for w, part in zip(weights, coarse, strict=True)])


def _pooled(pictures: np.ndarray) -> np.ndarray:
    count = len(pictures)
    return pictures.reshape(count, GREY // 2, 2, GREY // 2, 2).mean((2, 4))


def _unit(values: np.ndarray) -> np.ndarray:
    return values / max(float(np.linalg.norm(values)), 1.0)


def _root(first: Mapping[int, int], index: int) -> int:
    while index in first:
        index = first[index]
    return index


def groups(repeats: Mapping[str, str]) -> list[list[str]]:
    """The clips that show the same, together, the first one first."""
    found: dict[str, list[str]] = {}
    for id, original in repeats.items():
        found.setdefault(original, [original]).append(id)
    return list(found.values())
