"""Says what becomes of each clip and why, before anything is trained.

Every file is decoded once from end to end in a watched process, then sampled as training will sample it. What training
could not use is left out with its reason; what is odd but usable (black, still, enlarged) is flagged and kept.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from .. import video
from ..errors import VideoError
from ..video import Short, VideoInfo
from .clips import Clip, LeftOut, Manifest, write_file
from .watch import examine_all

_LOOK_HEIGHT = 32  # pixels: enough to see whether a clip is black or still
_BLACK = 16  # mean brightness of 255; limited-range black with noise stays below
_STILL = 4  # levels of 255 that all but 1% of the pixels stay within; compression noise does
_EPSILON = 1e-6  # seconds
_SHOWN = 20  # clips named in the terminal; all are in the JSON


@dataclass(frozen=True)
class Fate:
    """What becomes of one clip.

    Args:
        id: the clip.
        kept: whether training uses it.
        kind: the fate in a word or two, for counting.
        fate: the fate in a sentence.
        flags: what is odd about a clip that is kept.
        width, height, frames, fps, duration, codec: of the file: pixels when shown, frames that decode, seconds. None
            where the file could not be decoded.
    """

    id: str
    kept: bool
    kind: str
    fate: str
    flags: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    duration: float | None = None
    codec: str | None = None


@dataclass(frozen=True)
class Report:
    """The fate of every clip; `manifest` is what training uses."""

    manifest: Manifest
    fates: list[Fate]
    settings: dict[str, Any]

    def counts(self) -> dict[str, int]:
        """How many clips have each kind of fate, the kept ones first."""
        order = sorted(self.fates, key=lambda fate: not fate.kept)
        return dict(Counter(f"{'kept' if fate.kept else 'left out'}: {fate.kind}" for fate in order))

    def to_dict(self) -> dict[str, Any]:
        """The whole report as JSON can hold it."""
        return {
            "root": str(self.manifest.root),
            "layout": self.manifest.layout,
            "settings": self.settings,
            "counts": self.counts(),
            "clips": [asdict(fate) for fate in self.fates],
        }

    def save(self, path: str | Path) -> None:
        """Writes the whole report as JSON."""
        write_file(path, json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n")

    def show(self, console: Console | None = None) -> None:
        """Prints the counts, and the clips that are left out or odd with their reasons."""
        kept = sum(fate.kept for fate in self.fates)
        counts = Table(title=f"{kept} clips are used, {len(self.fates) - kept} left out", title_justify="left")
        counts.add_column("what becomes of them")
        counts.add_column("clips", justify="right")
        for kind, count in self.counts().items():
            counts.add_row(kind, str(count))
        parts: list[Table | Text] = [counts]
        for title, rows in (
            ("Left out", [(fate.id, fate.fate) for fate in self.fates if not fate.kept]),
            ("Used, but odd", [(fate.id, "; ".join(fate.flags)) for fate in self.fates if fate.kept and fate.flags]),
        ):
            if rows:
                table = Table("clip", "reason", title=f"{title} ({len(rows)})", title_justify="left")
                for id, reason in rows[:_SHOWN]:
                    table.add_row(Text(id, overflow="fold"), Text(reason))
                parts.append(table)
            if len(rows) > _SHOWN:
                parts.append(Text(f"... and {len(rows) - _SHOWN} more, in the JSON report."))
        (console or Console()).print(Group(*parts))


@dataclass(frozen=True)
class _Wanted:
    """How training samples a clip."""

    num_frames: int
    fps: float | None
    height: int
    width: int
    short: Short


def check(
    manifest: Manifest,
    *,
    num_frames: int = 16,
    fps: float | None = None,
    height: int = 64,
    width: int = 64,
    short: Short = "repeat_last",
    timeout: float = 60.0,
    workers: int | None = None,
    on_done: Callable[[int], None] | None = None,
) -> Report:
    """What becomes of each clip when it is sampled like this.

    Args:
        manifest: the clips, and what reading the layout left out already.
        num_frames, fps, height, width, short: as training samples them, see `video.sample`.
        timeout: seconds that one file may take to decode before it counts as hanging.
        workers: processes that decode; None takes what the machine has.
        on_done: called with the number of files decoded so far, for progress.

    Returns:
        A report whose manifest holds the clips that training can use.
    """
    wanted = _Wanted(num_frames, fps, height, width, short)
    paths = list(dict.fromkeys(clip.path for clip in manifest.clips))
    samples: dict[Path, list[dict[str, Any]]] = defaultdict(list)
    for clip in manifest.clips:
        samples[clip.path] += _rehearsal(clip, wanted)
    examined = examine_all(paths, timeout=timeout, workers=workers, on_done=on_done, samples=samples)
    found = dict(zip(paths, examined, strict=True))
    # every clip has been sampled in a watched process by now, so sampling in threads will not hang
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        fates = list(pool.map(lambda clip: _fate(clip, found[clip.path], wanted), manifest.clips))
    kept = [clip for clip, fate in zip(manifest.clips, fates, strict=True) if fate.kept]
    left_out = manifest.left_out + [LeftOut(fate.id, fate.fate) for fate in fates if not fate.kept]
    fates = _with_notes(fates, manifest.left_out)
    return Report(Manifest(manifest.root, manifest.layout, kept, left_out), fates, asdict(wanted))


def _rehearsal(clip: Clip, wanted: _Wanted) -> list[dict[str, Any]]:
    """The samples to try in a watched process: where training draws a window, the first, the middle and the last."""
    if clip.is_picture:
        return []
    sample = {"num_frames": wanted.num_frames, "fps": wanted.fps, "start": clip.start, "end": clip.end}
    places = [None] if wanted.fps is None else [0.0, 0.5, 0.999]
    return [sample | {"height": _LOOK_HEIGHT, "rng": place} for place in places]


def _with_notes(fates: list[Fate], left_out: list[LeftOut]) -> list[Fate]:
    """The fates with what reading the layout said: a flag on a clip that is kept, else a fate of its own."""
    notes: dict[str, list[str]] = defaultdict(list)
    for id, reason in left_out:
        notes[id].append(reason)
    noted = [replace(fate, flags=(*fate.flags, *notes.pop(fate.id, ()))) for fate in fates]
    return noted + [
        Fate(id, False, reason.split(" (")[0].split(":")[0], reason)
        for id, reasons in notes.items()
        for reason in reasons
    ]


def _fate(clip: Clip, info: VideoInfo | str, wanted: _Wanted) -> Fate:
    if isinstance(info, str):
        return Fate(clip.id, False, "cannot be decoded", _reason(info, clip))
    measured = {
        "width": info.width,
        "height": info.height,
        "frames": info.num_frames,
        "fps": round(info.fps, 3),
        "duration": round(info.duration, 3),
        "codec": info.codec,
    }
    count = 1 if clip.is_picture else wanted.num_frames
    try:
        frames, times = video.sample(
            clip.path,
            count,
            fps=wanted.fps,
            height=_LOOK_HEIGHT,
            start=clip.start,
            end=clip.end,
            short=wanted.short,
        )
    except Exception as error:  # a decoder meets any bytes and may answer with any error
        reason = _reason(str(error) if isinstance(error, VideoError) else repr(error), clip)
        return Fate(clip.id, False, "too short" if "too short" in reason else "cannot be sampled", reason, **measured)
    kind, sentence = _use(clip, info, wanted, count, len(np.unique(times)))
    if info.problem:
        kind, sentence = "the part that can be read", f"{info.problem}. Of the part that can be read: {sentence}"
    return Fate(clip.id, True, kind, sentence, _flags(clip, info, wanted, frames), **measured)


def _reason(message: str, clip: Clip) -> str:
    """A message about a clip's file, without the whole path."""
    return message.removeprefix(f"{clip.path} ").replace(str(clip.path), clip.source)


def _use(clip: Clip, info: VideoInfo, wanted: _Wanted, count: int, different: int) -> tuple[str, str]:
    """How a clip's frames are used: in a word or two, and in a sentence."""
    if clip.is_picture:
        return "a picture", "a picture: one frame"
    part = min(info.duration, info.duration if clip.end is None else clip.end) - (clip.start or 0.0)
    of = f"of its {info.num_frames} frames" if clip.source == clip.id else f"of its stretch of {part:.2f} s"
    rest = "it begins again" if wanted.short == "loop" else "its last frame stands still"
    if wanted.fps is None:
        if different < count and part * info.fps < count - 0.5:
            return f"too short, {rest}", f"{different} frames {of}; for the other {count - different} {rest}"
        return "frames evenly spaced over it", f"{count} frames {of}, evenly spaced over {part:.2f} s"
    needed = (count - 1) / wanted.fps
    if needed - _EPSILON > part - 0.5 / info.fps:  # half a frame is given, as in `video.sample`
        return f"too short, {rest}", f"{part:.2f} s; for the rest of {needed:.2f} s {rest}"
    return (
        f"a window at {wanted.fps:g} fps",
        f"{count} frames at {wanted.fps:g} fps: a window of {needed:.2f} s in {part:.2f} s",
    )


def _flags(clip: Clip, info: VideoInfo, wanted: _Wanted, frames: np.ndarray) -> tuple[str, ...]:
    """What is odd about a usable clip, from its sampled frames, uint8 `[T, h, w, 3]`."""
    flags = []
    if frames.mean(axis=(1, 2, 3)).max() < _BLACK:
        flags.append("almost black")
    change = np.ptp(frames, axis=0).max(axis=-1)  # [h, w] levels
    if len(frames) > 1 and np.quantile(change, 0.99) < _STILL:
        flags.append("nothing moves")
    scale = max(wanted.width / info.width, wanted.height / info.height)
    if scale > 1:
        flags.append(f"{info.width}x{info.height} pixels, enlarged {scale:.1f} times")
    if not clip.is_picture and wanted.fps and wanted.fps > info.fps * 1.05:
        flags.append(f"{info.fps:g} fps, fewer than the {wanted.fps:g} wanted: frames repeat")
    return tuple(flags)
