"""Which bucket a clip goes to, and which buckets suit a data set.

A clip is scaled to cover its bucket's frame and cropped in the middle, so the nearest bucket is the one that crops
little and keeps detail. Clips are rows of arrays here, so that a million take seconds.
"""

from collections.abc import Sequence

import numpy as np

from ..sizes import ALL, Bucket, Rule, ShapeRules, Way
from ..video import VideoInfo
from .clips import Clip

EPSILON = 1e-6  # seconds
_CHUNK = 1 << 16  # kinds of clips compared with all buckets at once: bounds the memory
_21_BITS = (1 << 21) - 1
_MOST_SIZES = 6  # that `derive` gives
_GAIN = 0.01  # of all picture area: a further size has to save this much from being cropped
_RARE = 0.02  # of the clips: fewer do not get a length of their own
_WIDEST = 4.0  # times as wide as high, or as high as wide


def plan(
    clips: Sequence[Clip],
    infos: Sequence[VideoInfo | None],
    buckets: Sequence[Bucket] | Way,
    default: Bucket,
    *,
    fps: float | None = None,
    rules: ShapeRules = ALL,
    upscale: bool = False,
) -> list[Bucket | str | None]:
    """Each clip's bucket, or in words why it fits none; None for a clip without info, which could not be decoded.

    Args:
        buckets: to choose from; none: every clip gets `default`, a picture one frame of it, enlarged or not; "auto":
            derived from the clips, with the frames and pixels of `default` as the most; "native": each clip gets its
            own, see `native`.
        fps: frames a second that clips are sampled at; None is evenly over each.
        rules: what the model can take. Pictures are left out where it cannot take one frame.
    """
    known = [number for number, info in enumerate(infos) if info is not None]
    extents = np.array([extent(clips[n], info, fps) for n in known if (info := infos[n])], np.int32).reshape(-1, 3)
    pictures = np.array([clips[number].is_picture for number in known], bool)
    places: list[Bucket | str | None] = [None] * len(clips)
    if buckets == "native":
        for row, number in enumerate(known):
            own = Bucket(*extents[row].tolist())
            places[number] = native(own, bool(pictures[row]), default, rules, upscale)
        return places
    if buckets == "auto":
        taken = ~pictures | (rules.frames.broken(1) == "")
        buckets = derive(extents[taken], pictures[taken], default, rules, upscale) or [default]
    if buckets:
        table, numbers = place(extents, pictures, buckets, upscale)
    else:
        table, numbers = place(extents, pictures, [default], upscale=True)
    smallest = min(table, key=lambda bucket: bucket.height * bucket.width)
    for row, number in enumerate(known):
        _, height, width = extents[row]
        if pictures[row] and (broken := rules.frames.broken(1)):
            places[number] = _no_picture(broken)
        elif numbers[row] < 0:
            places[number] = (
                f"{width}x{height} pixels cover no bucket without being enlarged (the smallest is "
                f"{smallest.width}x{smallest.height}): allow it with --upscale, or add a smaller bucket"
            )
        else:
            places[number] = table[numbers[row]]
    return places


def native(own: Bucket, picture: bool, most: Bucket, rules: ShapeRules, upscale: bool = False) -> Bucket | str:
    """A clip's own shape as a bucket, or in words why it has none.

    It is shrunk where it has more pixels than `most`, keeping its aspect ratio, and frames over those of `most` are
    left out; then every side is rounded down to what the rules allow.

    Args:
        own: of `extent`.
        upscale: shapes below the smallest that the rules allow become that one; a clip that is shorter than the rules'
            fewest frames always does.
    """
    shrink = min(1.0, (most.height * most.width / (own.height * own.width)) ** 0.5)
    wanted = (min(own.frames, most.frames), own.height * shrink, own.width * shrink)
    named = zip((rules.frames, rules.height, rules.width), wanted, strict=True)
    frames, height, width = (rule.below(number + EPSILON) for rule, number in named)
    if picture and (broken := rules.frames.broken(1)):
        return _no_picture(broken)
    if upscale:
        height, width = height or rules.height.nearest(1)[0], width or rules.width.nearest(1)[0]
    if height is None or width is None:
        smallest = f"{rules.width.nearest(1)[0]}x{rules.height.nearest(1)[0]}"
        return (
            f"{own.width}x{own.height} pixels, shrunk to the area of {most.width}x{most.height}, are less than the "
            f"smallest that the model takes, {smallest}: allow it to be enlarged with --upscale"
        )
    return Bucket(frames or rules.frames.nearest(1)[0], height, width)


def extent(clip: Clip, info: VideoInfo, fps: float | None) -> tuple[int, int, int]:
    """The (frames, height, width) of a clip: the frames that it can give at `fps` without repeating any."""
    part = min(info.duration, info.duration if clip.end is None else clip.end) - (clip.start or 0.0)
    if clip.is_picture:
        frames = 1
    elif fps is not None:  # half a frame is given, as in `video.sample`
        frames = int((part - 0.5 / info.fps) * fps + EPSILON) + 1
    else:
        frames = info.num_frames if clip.source == clip.id else int(part * info.fps + EPSILON)
    # damaged timestamps and aspect ratios promise more than any bucket has, and than the arrays hold
    return min(max(frames, 1), _21_BITS), min(info.height, _21_BITS), min(info.width, _21_BITS)


def place(
    extents: np.ndarray, pictures: np.ndarray, buckets: Sequence[Bucket], upscale: bool = False
) -> tuple[list[Bucket], np.ndarray]:
    """All buckets there are, and the number of each clip's own, int16 `[N]`; -1 where none fits.

    Videos go into the buckets of several frames, where there are any; pictures into one-frame buckets of all the sizes.
    Which one is said at `nearest`.

    Args:
        extents: `[N, 3]`, of `extent`.
        pictures: bool `[N]`.
    """
    moving = [bucket for bucket in buckets if bucket.frames > 1] or list(buckets)
    still = sorted({Bucket(1, height, width) for _, height, width in buckets})
    numbers = np.full(len(extents), -1, np.int16)
    numbers[~pictures] = nearest(extents[~pictures], moving, upscale)
    found = nearest(extents[pictures], still, upscale)
    numbers[pictures] = np.where(found < 0, -1, found + len(moving))
    return [*moving, *still], numbers


def nearest(extents: np.ndarray, buckets: Sequence[Bucket], upscale: bool = False) -> np.ndarray:
    """The number of each clip's bucket, int16 `[N]`; -1 where none fits.

    Of the buckets whose frame the clip covers without being enlarged (`upscale`: of all), those come first that it
    fills without repeating frames, then those that it misses the fewest of. Of these the nearest in size: a difference
    in aspect ratio counts four times a difference in area, both as logarithms. Of the nearest the longest.
    """
    longest_first = sorted(range(len(buckets)), key=lambda number: -buckets[number].frames)
    frames, height, width = np.array([buckets[number] for number in longest_first], np.float64).T  # [K] each
    # Clips of one size that fill the same lengths are one kind: a million clips are a few thousand kinds.
    lengths = np.unique(frames)
    have, high, wide = extents.T.astype(np.int64)  # [N] each
    filled = np.searchsorted(lengths, have, side="right")
    kinds, kind_of = np.unique((filled << 42) | (high << 21) | wide, return_inverse=True)
    chosen = np.empty(len(kinds), np.int16)
    for first in range(0, len(kinds), _CHUNK):
        some = kinds[first : first + _CHUNK, None]  # [n, 1]
        have = np.concatenate([[0], lengths])[some >> 42]
        x, y = np.log((some & _21_BITS) / width), np.log((some >> 21 & _21_BITS) / height)
        score = 2 * abs(x - y) + abs(x + y) / 2 + 1e6 * np.maximum(frames - have, 0)
        if not upscale:
            score[(x < 0) | (y < 0)] = np.inf
        best = score.argmin(axis=1)
        fits = np.isfinite(score[np.arange(len(best)), best])
        chosen[first : first + _CHUNK] = np.where(fits, np.array(longest_first)[best], -1)
    return chosen[kind_of]


def _no_picture(broken: str) -> str:
    return f"a picture is a clip of one frame, and for this model 1 {broken}: leave pictures out"


def cropped(height: int, width: int, bucket: Bucket) -> float:
    """The share of a frame of `height` x `width` that is cut away when it is scaled to cover the bucket's."""
    ratio = (bucket.width * height) / (bucket.height * width)
    return 1 - min(ratio, 1 / ratio)


def derive(
    extents: np.ndarray, pictures: np.ndarray, longest: Bucket, rules: ShapeRules, upscale: bool = False
) -> list[Bucket]:
    """A small set of buckets that suits the clips, smallest first; it does not depend on their order.

    Sizes: of all that the rules allow with no more pixels than `longest` has, and at least 7 tenths of them, one at a
    time the one that lowers the mean share cropped the most, until another would lower it by less than 1%, or there are
    six. Lengths: `longest.frames`, its half and its quarter (what the rules allow below), where at least 2% of the
    videos need them. Only buckets that clips go to are given; none where every clip is too small.

    Args:
        extents, pictures: as for `place`.
        longest: frames at most, and the size whose pixels are the budget.
        rules: of the model.
    """
    sizes = _sizes(longest.height * longest.width, rules)
    large = np.zeros(len(extents), bool)
    for height, width in sizes:
        large |= (extents[:, 1] >= height) & (extents[:, 2] >= width)
    if not upscale:
        extents, pictures = extents[large], pictures[large]
    if not len(extents):
        return []
    lengths = _lengths(extents[~pictures, 0], longest.frames, rules.frames)
    table, numbers = place(
        extents, pictures, [Bucket(frames, *size) for size in _few(extents, sizes) for frames in lengths], upscale
    )
    return sorted({table[number] for number in np.unique(numbers[numbers >= 0])}, key=lambda b: (b.pixels, b))


def _sizes(pixels: int, rules: ShapeRules) -> list[tuple[int, int]]:
    """All (height, width) that the rules allow, of nearly that many pixels and not more."""
    found = []
    for height in range(1, int((pixels * _WIDEST) ** 0.5) + 1):
        width = rules.width.below(pixels / height)
        if rules.height.broken(height) or width is None:
            continue
        if height * width >= 0.7 * pixels and 1 / _WIDEST <= width / height <= _WIDEST:
            found.append((height, width))
    return found


def _few(extents: np.ndarray, sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sizes that together crop the clips little."""
    aspects, counts = np.unique(np.round(np.log(extents[:, 2] / extents[:, 1]), 2), return_counts=True)
    shares = counts / counts.sum()
    offered = np.log([width / height for height, width in sizes])
    loss = 1 - np.exp(-abs(aspects[:, None] - offered))  # [A, S], share cropped
    left, chosen = np.ones(len(aspects)), []
    while len(chosen) < min(_MOST_SIZES, len(sizes)):
        gains = shares @ np.maximum(left[:, None] - loss, 0)
        best = int(gains.argmax())
        if chosen and gains[best] < _GAIN:
            break
        chosen.append(sizes[best])
        left = np.minimum(left, loss[:, best])
    return chosen


def _lengths(frames: np.ndarray, longest: int, rule: Rule) -> list[int]:
    """The longest length, and shorter ones that enough clips need."""
    lengths = [longest]
    for part in (2, 4):
        shorter = rule.below(longest / part)
        if shorter and 1 < shorter < lengths[-1] and (frames < lengths[-1]).sum() >= _RARE * max(len(frames), 1):
            lengths.append(shorter)
    return lengths
