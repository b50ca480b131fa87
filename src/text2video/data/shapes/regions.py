"""Which pixels of a video belong to which thing: by colour against the ground, and followed from frame to frame.

A pixel that a thing covers by `a` is `ground + a (paint - ground)`: however soft its edge, the difference to the ground
points in the direction of the thing's paint. So pixels are named by that direction, and `a` is its length.
"""

from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

_LIT = 0.42  # of the way from the ground to a paint: more belongs to a thing
_ALIKE = 0.9  # cosine between a pixel's direction and that of its paint, at least
_PURE = 0.001  # of the frame's area, on average: so many pixels of a colour touch no other colour
_ALONE = 0.4  # of the pixels of a colour, at least, touch no other
_LASTS = 0.2  # of the clip: a colour seen for less is a blend of others
_SMALLEST = 0.004  # of the frame's area: less is a speck
_SPECK = 0.1  # of the largest region: less is one too
_THINGS = 0.5  # of what stands out, at least, is things and not specks
_MOST = 3  # things in a scene
_SHARED = 0.05  # of the places that one of two things takes in all: more are taken by both
_JUMP = 0.15  # frame sides, farther from one colour to the next it is another thing
_STAYS = 1.5  # times a thing's largest area, at most, are all places that it takes if it stays still
_COVERED = 0.3  # of a thing's places, at least, are taken by others where it is not seen
_PARTED = 0.2  # frame sides, at most, from a thing to a part of it that something in front cuts off
_WHOLE = 0.8  # of a region's area, at least, that has not begun to turn to another colour
_TURNING = 0.3  # of the clip, at most, in which a thing shows neither of two colours


@dataclass(frozen=True)
class Track:
    """One thing in every frame: its pixels `mask` `[T, H, W]`, its paint's number in the palette `[T]` (-1 where it is
    not seen), and in which frames all of it is seen, `whole` `[T]`, and apart from all others, `apart` `[T]`."""

    mask: np.ndarray
    paint: np.ndarray
    whole: np.ndarray
    apart: np.ndarray


@dataclass(frozen=True)
class _Region:
    paint: int
    area: int
    centre: complex
    mask: np.ndarray  # [H, W]
    touched: bool  # by another colour


def reduced(frames: np.ndarray, side: int = 48) -> np.ndarray:
    """Float frames, large ones averaged over blocks until the shorter side has `side` to `2 side - 1` pixels."""
    frames = np.asarray(frames)
    factor = max(1, min(frames.shape[1:3]) // side)
    t, h, w = frames.shape[0], frames.shape[1] // factor, frames.shape[2] // factor
    if factor > 1:
        frames = frames[:, : h * factor, : w * factor].reshape(t, h, factor, w, factor, 3).mean((2, 4))
    return frames.astype(np.float32)


def labelled(pictures: np.ndarray, ground: np.ndarray, paints: np.ndarray) -> np.ndarray:
    """The number of its paint `[C, 3]`, from 1, of every pixel `[T, H, W]` that belongs to a thing, 0 elsewhere."""
    towards = paints - ground.mean((0, 1))
    lengths = np.maximum(np.linalg.norm(towards, axis=1), 1)
    away = pictures - ground
    far = np.flatnonzero(np.einsum("thwc,thwc->thw", away, away) > (_LIT * lengths.min()) ** 2)
    away = away.reshape(-1, 3)[far]  # [N, 3]
    along = away @ (towards / lengths[:, None]).T  # [N, C]
    enough = along > _LIT * lengths
    alike = along.max(-1) > _ALIKE * np.linalg.norm(away, axis=-1)
    labels = np.zeros(pictures.shape[:3], np.int8)
    labels.ravel()[far] = _best(along, enough, alike)
    kept = _kept(labels, len(paints))
    enough[:, [c for c in range(len(paints)) if c not in kept]] = False
    labels.ravel()[far] = _best(np.where(enough.any(0), along, -np.inf), enough, alike)
    return labels


def _best(along: np.ndarray, enough: np.ndarray, alike: np.ndarray) -> np.ndarray:
    best = along.argmax(-1)
    return np.where(enough[np.arange(len(best)), best] & alike, best + 1, 0)


def _kept(labels: np.ndarray, paints: int) -> list[int]:
    """The paints that are more than a rim between two others."""
    pure = labels.copy()
    for axis in (1, 2):
        for step in (-1, 1):
            other = np.roll(labels, step, axis)
            pure[(other > 0) & (other != labels)] = 0
    pixels, alone = (_counted(each, paints) for each in (labels, pure))  # [T, C]
    seen = alone > _PURE * labels[0].size
    lasting = seen.sum(0) >= max(1, round(_LASTS * len(labels)))
    return [int(c) for c in np.flatnonzero(lasting & (alone.sum(0) > _ALONE * pixels.sum(0)))]


def _counted(labels: np.ndarray, paints: int) -> np.ndarray:
    """How many pixels of each paint there are in each frame: `[T, C]`."""
    t, count = len(labels), paints + 1
    numbered = labels.reshape(t, -1) + count * np.arange(t)[:, None]
    return np.bincount(numbered.ravel(), minlength=t * count).reshape(t, count)[:, 1:]


def components(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places of the labelled pixels of `[T, H, W]`, and the region of each: the pixels of equal label that hang
    together in a frame (4-connected) share one number."""
    _, h, w = labels.shape
    flat = np.pad(labels, ((0, 0), (1, 1), (1, 1))).ravel()
    places = np.flatnonzero(flat)
    position = np.zeros(len(flat), np.int32)
    position[places] = np.arange(len(places))
    own = np.arange(len(places), dtype=np.int32)
    beside = [np.where(flat[places + d] == flat[places], position[places + d], own) for d in (1, w + 2, -1, -w - 2)]
    names = own.copy()
    while True:
        wider = names
        for neighbour in beside:
            wider = np.maximum(wider, wider[neighbour])
        wider = wider[wider]  # a name is a pixel of the same region: jump to that pixel's own name
        if np.array_equal(wider, names):
            frame, rest = np.divmod(places, (h + 2) * (w + 2))
            row, column = np.divmod(rest, w + 2)
            return (frame * h + row - 1) * w + column - 1, names
        names = wider


def tracked(labels: np.ndarray) -> tuple[list[Track], str]:
    """The things that are there all along; none, and why, where that is unclear."""
    regions = _regions(labels)
    paints = sorted({region.paint for frame in regions for region in frame})
    if not paints:
        return [], "nothing stands out from the background"
    if sum(region.area for frame in regions for region in frame) < _THINGS * (labels > 0).sum():
        return [], "more stands out from the background than things"
    strands = []
    for paint in paints:
        found, why = _strands([[r for r in frame if r.paint == paint] for frame in regions])
        if why:
            return [], why
        strands += found
    strands = _joined(strands)
    if len(strands) > _MOST:
        return [], f"there are more than {_MOST} things"
    shape = labels.shape[1:]
    return _unbroken(_hidden([_track(strand, shape) for strand in strands]))


Strand = list[_Region | None]


def _regions(labels: np.ndarray) -> list[list[_Region]]:
    """The regions of each frame that are no specks."""
    t, h, w = labels.shape
    side = min(h, w)
    places, names = components(labels)
    order = np.argsort(names, kind="stable")
    places, names = places[order], names[order]
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]]) if len(names) else np.zeros(0, int)
    areas = np.diff(np.r_[starts, len(names)])
    frames: list[list[_Region]] = [[] for _ in range(t)]
    for i in np.flatnonzero(areas >= _SMALLEST * side**2):
        inside = places[starts[i] : starts[i] + areas[i]]
        frame, rest = divmod(int(inside[0]), h * w)
        rows, columns = np.divmod(inside % (h * w), w)
        centre = complex(columns.mean() + 0.5, rows.mean() + 0.5) / side
        label = int(labels[frame].ravel()[rest])
        mask = np.zeros((h, w), bool)
        mask[rows, columns] = True
        foreign = (labels[frame] > 0) & (labels[frame] != label)
        touched = bool((grown(mask, 2) & foreign).any())
        frames[frame].append(_Region(label - 1, int(areas[i]), centre, mask, touched))
    for k, regions in enumerate(frames):
        floor = _SPECK * max((r.area for r in regions), default=0)
        frames[k] = sorted((r for r in regions if r.area >= floor), key=lambda r: -r.area)[: 4 * _MOST]
    return frames


def _strands(frames: list[list[_Region]]) -> tuple[list[Strand], str]:
    """The things of one paint, each with its region in every frame or None where it is not seen."""
    seen = [t for t, regions in enumerate(frames) if regions]
    free = [t for t in seen if not any(r.touched for r in frames[t])]
    counts = [len(frames[t]) for t in free]
    count = max(set(counts), key=counts.count) if counts else 1
    if counts and (min(counts) < count or counts.count(count) < 0.8 * len(counts)):
        return [], "the number of things changes"
    if count > _MOST:
        return [], f"there are more than {_MOST} things"
    strands: list[Strand] = [[None] * len(frames) for _ in range(count)]
    last: list[_Region] = []
    alone = [regions for regions in frames if len(regions) == 1] or [frames[t] for t in seen]
    largest = max((r for regions in alone for r in regions), key=lambda r: r.area)
    for t in seen:
        regions = frames[t]
        if count == 1:
            regions = _pieced(regions, [largest, *(last or regions[:1])])
        if len(regions) < count:
            continue
        best = min(permutations(regions, count), key=lambda order: _way(last, order))
        for strand, region in zip(strands, best, strict=True):
            strand[t] = region
        last = list(best)
    return strands, ""


def _pieced(regions: list[_Region], marks: list[_Region]) -> list[_Region]:
    """The thing near one of the marks: what is in front may part it into regions that all touch another colour."""
    far = {id(r): min(abs(r.centre - mark.centre) for mark in marks) for r in regions}
    nearest = min(regions, key=lambda r: far[id(r)])
    pieces = [r for r in regions if r.touched and far[id(r)] < _PARTED] if nearest.touched else []
    return [_merged(pieces)] if pieces else [nearest]


def _merged(regions: list[_Region]) -> _Region:
    if len(regions) == 1:
        return regions[0]
    area = sum(r.area for r in regions)
    centre = sum(r.area * r.centre for r in regions) / area
    mask = np.logical_or.reduce([r.mask for r in regions])
    return _Region(regions[0].paint, area, centre, mask, any(r.touched for r in regions))


def _way(last: list[_Region], now: tuple[_Region, ...]) -> float:
    return sum(abs(a.centre - b.centre) for a, b in zip(last, now, strict=True)) if last else 0.0


def _joined(strands: list[Strand]) -> list[Strand]:
    """A thing that turns from one colour to another is one thing: what ends where something else begins.

    The frames in which it shows both colours, or neither, are left out.
    """
    strands = list(strands)
    for early in list(strands):
        for late in strands:
            if early[0] is None or early[-1] is not None or late[0] is not None or late[-1] is None:
                continue
            end = max(t for t, r in enumerate(early) if r is not None)
            start = min(t for t, r in enumerate(late) if r is not None)
            before, after = min(end, start - 1), max(start, end + 1)
            first, second = early[before], late[after] if after < len(late) else None
            if first is None or second is None:
                continue
            before = max(t for t in range(before + 1) if _is_whole(early[t], early[0]))
            after = min(t for t in range(after, len(late)) if _is_whole(late[t], late[-1]))
            turning = after - before - 1
            if turning > max(1, round(_TURNING * len(early))):
                continue
            if abs(first.centre - second.centre) < _JUMP:
                strands[strands.index(early)] = early[: before + 1] + [None] * turning + late[after:]
                strands.remove(late)
                break
    return strands


def _is_whole(region: _Region | None, model: _Region) -> bool:
    return region is not None and region.area > _WHOLE * model.area


def _track(strand: Strand, shape: tuple[int, ...]) -> Track:
    """The strand as a track that is whole wherever it is seen."""
    mask = np.stack([np.zeros(shape, bool) if r is None else r.mask for r in strand])
    paint = np.array([-1 if r is None else r.paint for r in strand])
    apart = np.array([r is not None and not r.touched for r in strand])
    return Track(mask, paint, paint >= 0, apart)


def _hidden(tracks: list[Track]) -> list[Track]:
    """The tracks, not whole where another passes in front of them.

    Where one takes places of another that stays still at other times, it is in front: behind, it would not be seen.
    """
    places = [track.mask.any(0) for track in tracks]
    drifts = [_drift(track) for track in tracks]
    still = [p.sum() < _STAYS * t.mask.sum((1, 2)).max() for p, t in zip(places, tracks, strict=True)]
    result = []
    for k, track in enumerate(tracks):
        whole = track.whole.copy()
        for j, other in enumerate(tracks):
            passes = j != k and still[k] and drifts[j] >= drifts[k]
            shared = (places[k] & places[j]).sum()
            if passes and shared >= _SHARED * min(places[k].sum(), places[j].sum()):
                whole &= ~(grown(other.mask, 1) & places[k]).any((1, 2))
        result.append(replace(track, whole=whole))
    return result


def _drift(track: Track) -> float:
    """How far its middle gets, in pixels, between the halves of the frames in which it is seen."""
    seen = np.flatnonzero(track.paint >= 0)
    first, second = (track.mask[half].sum(0) for half in (seen[: len(seen) // 2 + 1], seen[len(seen) // 2 :]))
    return float(abs(_middle(first) - _middle(second)))


def _middle(weight: np.ndarray) -> complex:
    total = max(weight.sum(), 1)
    rows, columns = (np.arange(n) for n in weight.shape)
    return complex((weight.sum(0) * columns).sum(), (weight.sum(1) * rows).sum()) / total


def _unbroken(tracks: list[Track]) -> tuple[list[Track], str]:
    """The tracks, if every one is seen in every frame but where others cover it or its colour turns."""
    everything = np.logical_or.reduce([track.mask for track in tracks])
    for track in tracks:
        place = track.mask.any(0)
        turning = len(set(track.paint[track.paint >= 0])) > 1
        for t in np.flatnonzero(track.paint < 0):
            if not turning and (place & everything[t]).sum() < _COVERED * place.sum():
                return [], "the number of things changes"
    return tracks, ""


def grown(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask `[..., H, W]` and what is within `steps` of it, along rows and columns."""
    for _ in range(steps):
        wider = mask.copy()
        wider[..., 1:, :] |= mask[..., :-1, :]
        wider[..., :-1, :] |= mask[..., 1:, :]
        mask = wider.copy()
        mask[..., 1:] |= wider[..., :-1]
        mask[..., :-1] |= wider[..., 1:]
    return mask
