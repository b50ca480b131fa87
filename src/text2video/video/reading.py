"""From a file to upright RGB frames and their times, whatever the container, and what to say when it cannot be done."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from ..errors import VideoError
from .members import is_file, member_of, open_file

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
EPSILON = 1e-6  # seconds: timestamps are rounded to ticks


class Video(NamedTuple):
    """Frames uint8 `[T, H, W, 3]` RGB, and their times float64 `[T]` in seconds from the file's first frame."""

    frames: np.ndarray
    times: np.ndarray


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds. `probe` believes the header; `examine` has decoded every frame (`counted`).

    `width` and `height` are pixels of the upright frame with square pixels, `fps` is the average rate, `duration` is in
    seconds and includes the last frame's own time, `rotation` is in degrees. `problem` says in words what is damaged
    (what can be read is still read); `truncated` that the end is missing.
    """

    width: int
    height: int
    fps: float
    num_frames: int
    duration: float
    codec: str
    container: str
    has_audio: bool = False
    rotation: int = 0
    counted: bool = False
    truncated: bool = False
    problem: str | None = None


def probe(path: str | os.PathLike) -> VideoInfo:
    """Opens a file and decodes one frame: quick, with the header's counts. VideoError when there is no picture."""
    path = Path(path)
    if is_picture(path):
        height, width = open_picture(path).shape[:2]
        return VideoInfo(width, height, 1.0, 1, 1.0, path.suffix[1:].lower(), "picture", counted=True)
    problems: list[str] = []
    with open_video(path) as container:
        stream = picture_stream(path, container, threads=1)
        first = next(_decode(stream, container.demux(stream), problems), None)
        if first is None:
            raise VideoError(_no_frames(path, problems))
        width, height = upright_size(stream, first)
        fps = frame_rate(stream)
        seconds = header_duration(container, stream)
        count = stream.frames or max(1, round(seconds * fps))
        return VideoInfo(
            width=width,
            height=height,
            fps=fps,
            num_frames=count,
            duration=seconds or count / fps,
            codec=stream.codec_context.name,
            container=container.format.name,
            has_audio=bool(container.streams.audio),
            rotation=first.rotation,
        )


def examine(
    path: str | os.PathLike, look: Callable[[float, np.ndarray], None] | None = None, look_side: int = 160
) -> VideoInfo:
    """Decodes every frame: true counts, rate and duration, and what is damaged or cut off. VideoError as for `read`.

    `look` is shown every frame as it is decoded: its time in seconds from the first one, and the frame, upright, uint8
    RGB `[h, w, 3]`, its longer side brought down to `look_side` pixels where it is longer.
    """
    path = Path(path)
    header = probe(path)
    scale = min(1.0, look_side / max(header.width, header.height))
    small = max(1, round(header.width * scale)), max(1, round(header.height * scale))
    if is_picture(path):
        if look:
            look(0.0, resize_picture(open_picture(path), small))
        return header
    problems: list[str] = []
    converter, shown = Converter(), []
    for time, frame, _ in decoded_frames(path, problems):
        shown.append(time)
        if look:
            look(time, converter.rgb(frame, small))
    times = np.sort(shown)
    if not len(times):
        raise VideoError(_no_frames(path, problems))
    if problems:
        problems[:] = [f"{problems[0]}; {len(times)} of about {header.num_frames} frames can be read"]
    truncated = False
    with open_video(path) as container:
        promised = (container.duration or 0) / av.time_base
        ends = [
            float((p.pts + (p.duration or 0)) * p.time_base)
            for p in _readable(container.demux(), [])
            if p.pts is not None
        ]
        reached = max(ends, default=0.0) - (container.start_time or 0) / av.time_base
        if promised - reached > max(0.5, 0.02 * promised):  # a truncated WebM raises no error at all
            truncated = True
            problems.append(f"the header says {promised:.2f} s and the file ends after {max(reached, 0.0):.2f} s")
    gaps = np.diff(times)
    duration = float(times[-1] - times[0] + np.median(gaps)) if len(gaps) else 1 / header.fps
    return replace(
        header,
        num_frames=len(times),
        duration=duration,
        fps=len(times) / duration if duration else header.fps,
        counted=True,
        truncated=truncated,
        problem="; ".join(problems) or None,
    )


def read(path: str | os.PathLike) -> Video:
    """Every frame of a file. Of a damaged one the readable part (`examine` tells); a picture is a video of one frame.

    Frames come in the decoder's order, which is that of display; where timestamps contradict it, they are handed out
    in increasing order. Transparent parts lie over black. VideoError when no frame can be read.
    """
    path = Path(path)
    if is_picture(path):
        return Video(open_picture(path)[None], np.zeros(1))
    problems: list[str] = []
    converter = Converter()
    frames, times, size = [], [], None
    for time, frame, own_size in decoded_frames(path, problems):
        size = size or own_size  # of a stream that changes size: the first
        times.append(time)
        frames.append(converter.rgb(frame, size))
    if not frames:
        raise VideoError(_no_frames(path, problems))
    return Video(np.stack(frames), np.sort(times))


# ---- opening ----


def open_video(path: Path) -> InputContainer:
    """A container opened for reading. Only local files: a playlist in disguise fetches nothing. VideoError in words."""
    try:
        if member_of(path):
            return av.open(open_file(path), "r", metadata_errors="replace", options={"protocol_whitelist": "none"})
        return av.open(f"file:{path}", metadata_errors="replace", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError) as error:
        raise VideoError(_refusal(path, error)) from error


def picture_stream(path: Path, container: InputContainer, threads: int = 0, kind: str = "AUTO") -> VideoStream:
    """The first stream that is really a moving picture: not cover art, and not an empty track."""
    art = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [s for s in container.streams.video if s.codec_context is not None and not s.disposition & art]
    if not streams:
        what = "only sound" if container.streams.audio else "no video stream"
        raise VideoError(f"{path} has no picture ({what}). Leave it out, or give the file with the picture.")
    chosen = streams[0]
    if len(streams) > 1:
        for stream in streams:
            filled = any(packet.size for packet in _readable(container.demux(stream), []))
            container.seek(0)
            if filled:
                chosen = stream
                break
    chosen.codec_context.thread_count = threads
    chosen.thread_type = kind
    return chosen


def frame_rate(stream: VideoStream) -> float:
    """Average frames per second by the header; 25 where it says nothing."""
    return float(stream.average_rate or stream.guessed_rate or 25)


def header_duration(container: InputContainer, stream: VideoStream) -> float:
    """Seconds by the header, 0 when it does not know."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _refusal(path: Path, error: Exception) -> str:
    if path.is_dir():
        return f"{path} is a folder, not a video. Give a file."
    if not is_file(path) and not path.exists():
        return f"{path} does not exist. Check the path."
    try:
        with open_file(path) as file:
            head = file.read(64)
    except OSError as denied:
        return f"{path} cannot be read: {denied.strerror}. Check its permissions."
    if not head:
        return f"{path} is empty (0 bytes). Copy or download it again."
    if head.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer, not a video. Run `git lfs pull` where it came from."
    reason = getattr(error, "strerror", None) or error
    return f"{path} cannot be opened: {reason}. It is damaged or no video: copy it again, convert it, or leave it out."


def _no_frames(path: Path, problems: list[str]) -> str:
    reason = f" ({problems[0]})" if problems else ""
    return f"{path} has no frame that can be decoded{reason}. Copy it again, convert it, or leave it out."


# ---- decoding ----


class _Damaged(Exception):
    """Frame threads met an error: they report it late, and lose good frames that came before it."""


def decoded_frames(
    path: Path, problems: list[str], frame_threads: bool = True
) -> Iterator[tuple[float, av.VideoFrame, tuple[int, int]]]:
    """Every whole frame in display order: seconds from the first one, the frame, its upright (width, height).

    Fast with frame threads; once they meet damage it goes on without them, from the same frame. When that is depends on
    how the threads run: without them, a damaged file has the same frames every time. What is wrong is added to
    `problems`.
    """
    given = 0
    for kind in ("AUTO", "SLICE") if frame_threads else ("SLICE",):
        with open_video(path) as container:
            stream = picture_stream(path, container, kind=kind)
            gap = 1 / frame_rate(stream)
            first = last = None
            try:
                frames = _decode(stream, container.demux(stream), problems, strict=kind == "AUTO")
                for index, frame in enumerate(frames):
                    stamped = frame.time if frame.pts is not None else None
                    last = stamped if stamped is not None else 0.0 if last is None else last + gap
                    first = last if first is None else first
                    if index >= given:
                        given += 1
                        yield last - first, frame, upright_size(stream, frame)
                return
            except _Damaged:
                continue


def _decode(
    stream: VideoStream, packets: Iterable[av.Packet], problems: list[str], strict: bool = False
) -> Iterator[av.VideoFrame]:
    """Whole frames. After an error all that follows leans on what is lost, up to the next key frame: it is dropped."""
    decoder, lost = decoder_of(stream), False
    for packet in _readable(packets, problems):
        if lost and not packet.is_keyframe:
            continue
        try:
            frames = decoder.decode(packet)
        except av.FFmpegError as error:
            if strict:
                raise _Damaged from error
            problems.append(f"damaged data ({error.strerror})")
            decoder.flush_buffers()
            lost = True
            continue
        lost = False
        for frame in frames:
            if not frame.is_corrupt:
                yield frame
            elif strict:
                raise _Damaged
            else:
                problems.append("damaged frames")


def decoder_of(stream: VideoStream) -> VideoCodecContext:
    """What decodes a stream: libvpx where a WebM has transparency, which FFmpeg's own decoders of it drop."""
    own = stream.codec_context
    name = _WITH_ALPHA.get(own.name)
    if name not in av.codecs_available or stream.metadata.get("alpha_mode") != "1":
        return own
    decoder: Any = VideoCodecContext.create(name, "r")
    decoder.thread_count = own.thread_count
    return decoder


def _readable(packets: Iterable[av.Packet], problems: list[str]) -> Iterator[av.Packet]:
    """The packets up to where the container breaks."""
    try:
        yield from packets
    except av.FFmpegError as error:
        problems.append(f"damaged container ({error.strerror})")


def upright_size(stream: VideoStream, frame: av.VideoFrame) -> tuple[int, int]:
    """(width, height) with the sample aspect ratio applied to the width as stored, then turned."""
    width, height = max(1, round(frame.width * (stream.sample_aspect_ratio or 1))), frame.height
    return (height, width) if _quarter_turns(frame) % 2 else (width, height)


def _quarter_turns(frame: av.VideoFrame) -> int:
    return round(frame.rotation / 90)


class Converter:
    """Frames to upright uint8 RGB of any size. One for a whole file: setting the scaler up costs more than its work."""

    def __init__(self, threads: int = 0):
        self.threads = threads or None
        self.reformatter = VideoReformatter()

    def rgb(self, frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """uint8 `[H, W, 3]`, scaled to the upright (width, height) `size`, antialiased; alpha over black."""
        turns = _quarter_turns(frame)
        width, height = size[::-1] if turns % 2 else size
        if (width, height) == (frame.width, frame.height):
            method = Interpolation.BILINEAR  # of the chroma
        elif width <= frame.width and height <= frame.height:
            method = Interpolation.AREA
        else:
            method = Interpolation.BICUBIC
        # without these two every frame comes out darker by one level
        method |= Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        alpha = any(part.is_alpha for part in frame.format.components) or frame.format.name == "pal8"
        kind = "rgba" if alpha else "rgb24"
        try:
            scaled = self.reformatter.reformat(frame, width, height, kind, interpolation=method, threads=self.threads)
        except (av.FFmpegError, MemoryError, OverflowError) as error:
            asked = f"{size[0]}x{size[1]} pixels"
            raise VideoError(f"Frames of {asked} cannot be made: {error}. Ask for smaller ones.") from None
        pixels = scaled.to_ndarray()
        if alpha:
            pixels = ((pixels[..., :3].astype(np.uint16) * pixels[..., 3:] + 127) // 255).astype(np.uint8)
        return np.ascontiguousarray(np.rot90(pixels, turns))


# ---- pictures ----


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES


def resize_picture(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 `[H, W, 3]` scaled to (width, height) `size`, antialiased."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def open_picture(path: Path) -> np.ndarray:
    """uint8 `[H, W, 3]`, turned as its EXIF data says, transparent parts over black."""
    from PIL import Image, ImageOps

    try:
        with open_file(path) as file, Image.open(file) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):
                image = image.point(lambda value: value / 256, "L")  # convert() would clip to 255
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(_refusal(path, error)) from error
