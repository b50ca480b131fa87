"""From frames to files: MP4, GIF, PNGs, contact sheets, and the settings that a video carries with it."""

import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from ..errors import VideoError
from .reading import open_video
from .sampling import resize

_BT709 = 1  # the number of BT.709 in ISO/IEC 23091-2, for primaries, transfer and matrix
_LIMITED = 1  # FFmpeg's name for levels 16 to 235


def write(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    fps: float,
    *,
    metadata: Mapping[str, Any] | None = None,
    crf: int = 18,
) -> None:
    """Writes uint8 RGB frames, `[T, H, W, 3]` or an iterable of `[H, W, 3]`, as MP4, or as GIF by suffix.

    MP4 is H.264 yuv420p in BT.709 with its index in front, so that browsers play it; `crf` 0 is lossless, 18 looks so,
    51 is the worst. yuv420p has even sizes only: a video of odd width or height is written as yuv444p, which keeps the
    size exactly and which some browsers do not play. GIF takes up to 50 frames per second, at times rounded to 0.01 s.
    `metadata`, anything that JSON can hold, is stored in the MP4 (`read_metadata`); a GIF has no place for it.
    The file is written under another name and then renamed: never half a file. VideoError in words.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".mp4", ".gif"):
        raise VideoError(f"Cannot write {path}: the name ends in {suffix or 'no suffix'!r}. Use .mp4 or .gif.")
    if not writable(fps, suffix):
        raise VideoError(f"Cannot write {path}: {fps:g} frames per second. It must be above 0, for GIF at most 50.")
    unfinished = path.with_name(f".{secrets.token_hex(4)}{suffix}")
    rate = Fraction(fps).limit_denominator(1001)
    pictures = _checked(path, frames)
    try:
        if suffix == ".gif":
            _encode_gif(unfinished, pictures, rate)
        else:
            _encode_mp4(unfinished, pictures, rate, metadata or {}, crf)
        unfinished.replace(path)
    except (OSError, av.FFmpegError) as error:
        raise VideoError(
            f"Cannot write {path}: {error.strerror or error}. Check the folder and its free space."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def writable(fps: float, suffix: str) -> bool:
    """Whether `write` takes this rate for a file of that suffix: one that it can store, for .gif up to 50."""
    return math.isfinite(fps) and fps >= 1e-3 and not (suffix == ".gif" and fps > 50)


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """What `write` stored as `metadata`; of other files the container's own fields. VideoError as for `read`."""
    with open_video(Path(path)) as container:
        fields = dict(container.metadata)
    try:
        stored = json.loads(fields.get("comment", ""))
    except ValueError:
        return fields
    return stored if isinstance(stored, dict) else fields


def write_frames(folder: str | os.PathLike, frames: Iterable[np.ndarray]) -> list[Path]:
    """Writes uint8 RGB frames as `frame_0000.png` and so on into `folder`, which is made. Returns the paths.

    Frames of a longer video that were written there before are removed.
    """
    folder = Path(folder)
    paths: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index, frame in enumerate(_checked(folder, frames)):
            paths.append(folder / f"frame_{index:04d}.png")
            _save_png(paths[-1], frame)
        for old in set(folder.glob("frame_[0-9][0-9][0-9][0-9].png")) - set(paths):
            old.unlink()
    except OSError as error:
        raise VideoError(f"Cannot write frames to {folder}: {error.strerror or error}.") from error
    return paths


def contact_sheet(path: str | os.PathLike, videos: Sequence[np.ndarray], *, columns: int = 8, margin: int = 4) -> None:
    """Writes a PNG with one row a video: at most `columns` of its frames, evenly spaced. Videos: uint8 `[T, H, W, 3]`.

    Frames of another size than the first video's are brought to it by `resize`.
    """
    height, width = videos[0].shape[1:3]
    columns = min(columns, max(len(video) for video in videos))
    size = (margin + len(videos) * (height + margin), margin + columns * (width + margin), 3)
    sheet = np.full(size, 255, np.uint8)
    for row, video in enumerate(videos):
        chosen = np.linspace(0, len(video) - 1, min(columns, len(video))).round().astype(int)
        for column, frame in enumerate(resize(video[chosen], height, width)):
            top, left = margin + row * (height + margin), margin + column * (width + margin)
            sheet[top : top + height, left : left + width] = frame
    try:
        _save_png(Path(path), sheet)
    except OSError as error:
        raise VideoError(f"Cannot write {path}: {error.strerror or error}.") from error


def _save_png(path: Path, picture: np.ndarray) -> None:
    """Under another name and then renamed, so that a full disk leaves no half of it."""
    from PIL import Image

    unfinished = path.with_name(f".{secrets.token_hex(4)}.png")
    try:
        Image.fromarray(picture).save(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _checked(path: Path, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    shape = None
    for frame in frames:
        shape = shape or frame.shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape != shape or shape[2] != 3 or 0 in shape:
            raise VideoError(
                f"Cannot write {path}: a frame is {frame.dtype} {list(frame.shape)}, the first {list(shape)}. "
                "Frames must be uint8 [height, width, 3], all of one size."
            )
        yield np.ascontiguousarray(frame)
    if shape is None:
        raise VideoError(f"Cannot write {path}: there are no frames.")


def _encode_mp4(path: Path, frames: Iterator[np.ndarray], fps: Fraction, metadata: Mapping[str, Any], crf: int) -> None:
    first = next(frames)
    height, width = first.shape[:2]
    with av.open(f"file:{path}", "w", format="mp4", options={"movflags": "faststart"}) as container:
        if metadata:
            container.metadata["comment"] = json.dumps(metadata, ensure_ascii=False)
        if "prompt" in metadata:
            container.metadata["title"] = str(metadata["prompt"])
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf)})
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = _LIMITED
        reformatter = VideoReformatter()
        method = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
        for frame in chain([first], frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture = reformatter.reformat(
                picture, format=stream.pix_fmt, dst_colorspace=Colorspace.ITU709, interpolation=method, threads=1
            )
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _encode_gif(path: Path, frames: Iterator[np.ndarray], fps: Fraction) -> None:
    """One palette for the whole video, made from all its frames, so that still parts do not flicker."""
    first = next(frames)
    height, width = first.shape[:2]
    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=1 / fps)
    split = graph.add("split")
    palette = graph.add("palettegen", "reserve_transparent=0")
    painted = graph.add("paletteuse", "dither=bayer:bayer_scale=4")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(painted, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(painted, 0, 1)
    painted.link_to(sink)
    graph.configure()
    for index, frame in enumerate(chain([first], frames)):
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts, picture.time_base = index, 1 / fps
        source.push(picture)
    source.push(None)
    with av.open(f"file:{path}", "w", format="gif") as container:
        stream = container.add_stream("gif", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "pal8"
        try:
            while isinstance(picture := sink.pull(), av.VideoFrame):
                container.mux(stream.encode(picture))
        except EOFError:
            container.mux(stream.encode(None))
