"""Choosing a few frames of a file by time, decoding no more than they need, and bringing frames to a size."""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from ..errors import VideoError
from .reading import (
    EPSILON,
    Converter,
    Video,
    decoded_frames,
    decoder_of,
    frame_rate,
    header_duration,
    is_picture,
    open_picture,
    open_video,
    picture_stream,
    upright_size,
)

Short = Literal["repeat_last", "loop", "error"]
Choose = Callable[[np.ndarray], np.ndarray]  # increasing times in seconds -> indices of the frames wanted

LONG = 60.0  # seconds; of a longer file only the stretches around the wanted frames are read
_MOST = 10_000_000  # frames that a header is believed to promise: four days at 30 fps
_CHAINED = frozenset({"gif", "apng"})  # each frame is painted on the one before, whatever the key frame flags say
_SKIPPING = frozenset({"h264", "hevc", "mpeg4", "mpeg2video"})  # FFmpeg's VVC decoder loses wanted frames by skipping


def sample(
    path: str | os.PathLike,
    num_frames: int,
    *,
    fps: float | None = None,
    height: int | None = None,
    width: int | None = None,
    rng: np.random.Generator | None = None,
    start: float | None = None,
    end: float | None = None,
    short: Short = "repeat_last",
    threads: int = 1,
) -> Video:
    """`num_frames` frames of the part of a file in `[start, end)` seconds, chosen by time and not by count.

    With `fps`: a window of frames `1 / fps` seconds apart, each the nearest in time; the window lies at random when
    `rng` is given (one number is drawn), else in the middle. Without `fps`: evenly spaced from the first frame to the
    last. A part too short for this follows `short`: "repeat_last" stands still at the end, "loop" begins again, "error"
    raises VideoError. With `height` and `width` frames are scaled to cover that size and cropped in the middle, as by
    `resize`; with one of them they are scaled to it, keeping the aspect ratio. `threads` is for the decoder (0: as many
    as it likes); one is right in a data loader. Times are seconds from the file's first frame. VideoError as `read`.
    """
    path = Path(path)
    place = 0.5 if rng is None else rng.random()
    choose = partial(_choose, path=path, count=num_frames, fps=fps, place=place, short=short)
    part = (-np.inf if start is None else start, np.inf if end is None else end)
    if is_picture(path):
        indices = choose(np.zeros(1))
        return _fit(Video(open_picture(path)[None].repeat(len(indices), 0), np.zeros(len(indices))), height, width)
    with open_video(path) as container:
        stream = picture_stream(path, container, threads)
        video = _sample_by_packets(container, stream, choose, part, height, width)
    return _fit(video or _sample_by_decoding(path, choose, part, height, width), height, width)


def resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scales uint8 `[T, H, W, 3]` to cover `height` x `width` pixels, never squashed, and crops the middle.

    Bicubic with antialiasing, the same on every machine.
    """
    from PIL import Image

    full_height, full_width = frames.shape[1:3]
    if (full_height, full_width) == (height, width):
        return frames
    scale = min(full_width / width, full_height / height)
    left, top = (full_width - width * scale) / 2, (full_height - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    method = Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), method, box=box)) for f in frames])


def _fit(video: Video, height: int | None, width: int | None) -> Video:
    """The last step to the size asked for: crops what the decoder has scaled, scales what it has not."""
    full_height, full_width = video.frames.shape[1:3]
    covered = _cover((full_width, full_height), height, width)
    if height and width and covered == (full_width, full_height):
        top, left = (full_height - height) // 2, (full_width - width) // 2
        frames = np.ascontiguousarray(video.frames[:, top : top + height, left : left + width])
    else:
        frames = resize(video.frames, height or covered[1], width or covered[0])
    return Video(frames, video.times)


def _cover(full: tuple[int, int], height: int | None, width: int | None) -> tuple[int, int]:
    """The smallest (width, height) of the aspect ratio of `full` that covers what is asked for."""
    scale = max((width or 0) / full[0], (height or 0) / full[1]) or 1.0
    return max(round(full[0] * scale), width or 1), max(round(full[1] * scale), height or 1)


# ---- which frames ----


def _choose(times: np.ndarray, *, path: Path, count: int, fps: float | None, place: float, short: Short) -> np.ndarray:
    """Indices `[count]` into the increasing `times`, by the rules of `sample`; `place` in [0, 1) is the window's."""
    if not len(times):
        raise VideoError(f"{path} has no frame in the part asked for. Check start and end against its duration.")
    span = float(times[-1] - times[0])
    gap = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    enough = fits(len(times), span, gap, count, fps)
    if fps is None:
        if enough:
            return nearest(times, times[0] + span * (np.linspace(0, 1, count) if count > 1 else np.array([0.5])))
        have, order = f"{len(times)} frames", np.arange(count)
        indices = order % len(times) if short == "loop" else order.clip(max=len(times) - 1)
    else:
        offsets = np.arange(count) / fps
        if enough:
            return nearest(times, times[0] + max(span - offsets[-1], 0.0) * place + offsets)
        have = f"{span + gap:.2f} s"
        offsets = (offsets + EPSILON) % (span + gap) if short == "loop" and gap else offsets.clip(max=span)
        indices = nearest(times, times[0] + offsets)
    if short == "error":
        rate = f" at {fps:g} fps" if fps else ""
        raise VideoError(f"{path} is too short: {have} for {count} frames{rate}. Ask for fewer, or let it repeat.")
    return indices


def fits(frames: int, span: float, gap: float, num_frames: int, fps: float | None) -> bool:
    """Whether `sample` finds `num_frames` frames in a part without repeating any for want of time.

    Args:
        frames: that the part has.
        span: seconds from the first to the last of them.
        gap: median seconds between two.
        num_frames, fps: as asked of `sample`.
    """
    if fps is None:
        return frames >= num_frames
    return span - (num_frames - 1) / fps > -gap / 2 - EPSILON  # rates like 29.97 and 30 fit each other


def nearest(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Indices of the increasing `times` nearest to `wanted`; the earlier one when two are equally near."""
    right = np.searchsorted(times, wanted).clip(1, max(len(times) - 1, 1))
    left, right = right - 1, right.clip(max=len(times) - 1)
    return np.where(wanted - times[left] <= times[right] - wanted + EPSILON, left, right)


def _inside(times: np.ndarray, part: tuple[float, float]) -> np.ndarray:
    return (times >= part[0] - EPSILON) & (times < part[1] - EPSILON)


# ---- decoding no more than needed ----


def _sample_by_packets(
    container: InputContainer,
    stream: VideoStream,
    choose: Choose,
    part: tuple[float, float],
    height: int | None,
    width: int | None,
) -> Video | None:
    """Chooses by the packets' timestamps, before decoding. None: they cannot be trusted, or something is damaged.

    Only the stretches from a key frame to the last wanted frame before the next one are decoded, and within them frames
    that no other leans on are skipped.
    """
    if not stream.time_base or decoder_of(stream) is not stream.codec_context:  # the latter is told what to skip
        return None
    tick = float(stream.time_base)
    seconds = header_duration(container, stream)
    if seconds <= LONG:
        origin, wanted, groups, margin = None, None, [np.array([-np.inf, np.inf])], 0.0
    else:  # choose on the header's grid of times, then look at what lies around each
        origin, rate = stream.start_time or 0, frame_rate(stream)
        if seconds * rate > _MOST:
            return None
        grid = np.arange(0, seconds, 1 / rate)
        grid = grid[_inside(grid, part)]
        wanted = grid[choose(grid)]
        ordered, margin = np.unique(wanted), max(1.0, 2 / rate)
        groups = np.split(ordered, np.flatnonzero(np.diff(ordered) > LONG / 10) + 1)

    converter, converted, stamp_at = Converter(threads=1), {}, {}
    for group in groups:
        packets = _packets(container, stream, group[0] - margin, group[-1] + margin, origin or 0)
        if packets is None or not _trusted(packets, stream):
            return None
        stamps = np.sort(_stamps(packets))
        origin = stamps[0] if origin is None else origin
        times = (stamps - origin) * tick
        stamps, times = stamps[_inside(times, part)], times[_inside(times, part)]
        if wanted is None:
            wanted = group = times[choose(times)]
        elif not len(times):
            return None
        here = stamps[nearest(times, group)].tolist()
        stamp_at |= zip(group.tolist(), here, strict=True)
        for frame in _decode_only(stream, packets, set(here) - converted.keys()):
            size = _cover(upright_size(stream, frame), height, width)
            converted[frame.pts] = converter.rgb(frame, size)
    if wanted is None or not converted.keys() >= set(stamp_at.values()):
        return None
    picked = [stamp_at[time] for time in wanted.tolist()]
    return Video(np.stack([converted[p] for p in picked]), (np.array(picked) - origin) * tick)


def _packets(
    container: InputContainer, stream: VideoStream, begin: float, end: float, origin: int
) -> list[av.Packet] | None:
    """Packets from the key frame before `begin` to `end`, seconds from the first frame; None when they are damaged."""
    tick = float(stream.time_base or 1)
    packets: list[av.Packet] = []
    try:
        if begin > -np.inf:
            container.seek(max(0, int(begin / tick)) + origin, stream=stream)
        for packet in container.demux(stream):
            if packet.is_corrupt or (packet.size and packet.pts is None):
                return None
            if packet.dts is not None and (packet.dts - origin) * tick > end:
                break
            if packet.size and (packets or packet.is_keyframe):
                packets.append(packet)
    except av.FFmpegError:
        return None
    # seeking goes by decoding time, so the key frame may be shown a little after `begin`; half the margin is too far
    late = packets and begin > 0 and ((packets[0].pts or 0) - origin) * tick > begin + 0.5
    return None if late else packets


def _stamps(packets: Sequence[av.Packet]) -> list[int]:
    """Timestamps in ticks of the packets that are to be shown."""
    return [p.pts for p in packets if p.pts is not None and not p.is_discard]


def _trusted(packets: Sequence[av.Packet], stream: VideoStream) -> bool:
    """Whether the timestamps name the frames: distinct, and reordered where the codec says that it reorders."""
    stamps = _stamps(packets)
    if not stamps or len(set(stamps)) < len(stamps):
        return False
    return not (stream.codec_context.has_b_frames and all(p.pts == p.dts for p in packets))


def _decode_only(stream: VideoStream, packets: Sequence[av.Packet], stamps: set[int]) -> Iterator[av.VideoFrame]:
    """Yields the frames with these timestamps. Stops early at damage."""
    context = stream.codec_context
    keys = [0, *(i for i, packet in enumerate(packets) if packet.is_keyframe and context.name not in _CHAINED)]
    unwanted = "NONREF" if context.name in _SKIPPING else "DEFAULT"
    runs: list[tuple[int, int]] = []  # first and last packet of each stretch
    for index, packet in enumerate(packets):
        if packet.pts is None or packet.pts not in stamps:
            continue
        place = bisect_right(keys, index) - 1
        if place and packet.pts < (packets[keys[place]].pts or 0):
            place -= 1  # shown before its key frame, so it leans on the group before, too
        first = keys[place]
        while runs and first <= runs[-1][1] + 1:
            first = min(first, runs.pop()[0])
        runs.append((first, index))
    try:
        for first, last in runs:
            for packet in packets[first : last + 1]:
                context.skip_frame = "DEFAULT" if packet.pts in stamps else unwanted
                yield from (f for f in packet.decode() if f.pts in stamps and not f.is_corrupt)
            yield from (f for f in context.decode(None) if f.pts in stamps and not f.is_corrupt)
            context.flush_buffers()
    except av.FFmpegError:
        return


def _sample_by_decoding(
    path: Path, choose: Choose, part: tuple[float, float], height: int | None, width: int | None
) -> Video:
    """Decodes everything twice, once for the times and once for the frames: slow, small in memory, always right."""
    problems: list[str] = []
    times = np.sort([time for time, _, _ in decoded_frames(path, problems, frame_threads=False)])
    indices = np.flatnonzero(_inside(times, part))
    indices = indices[choose(times[indices])]
    wanted, converter, converted, size = set(indices.tolist()), Converter(), {}, None
    for index, (_, frame, own_size) in enumerate(decoded_frames(path, problems, frame_threads=False)):
        size = size or _cover(own_size, height, width)
        if index in wanted:
            converted[index] = converter.rgb(frame, size)
    return Video(np.stack([converted[i] for i in indices.tolist()]), times[indices])
