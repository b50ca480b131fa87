"""Says what becomes of each clip and why, before anything is trained.

Every file is decoded once from end to end in a watched process, and what was found is remembered. What training could
not use is left out with its reason; what is odd but usable (black, still, enlarged) is flagged, and kept unless asked.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from .. import video
from ..errors import UsageError
from ..sizes import ALL, Bucket, ShapeRules, Way
from ..video import Short, VideoInfo
from .caption_checks import CaptionReader, FitJudge, flags_of_captions, flags_of_fit
from .check_cache import CheckCache
from .clips import Clip, LeftOut, Manifest, write_file
from .duplicates import near_duplicates
from .findings import Findings, Look, Part
from .fitting import cropped, plan
from .flags import KINDS, Flag, of_frames
from .watch import Answer, examine_all

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
        flags: what is odd about the clip.
        width, height, frames, fps, duration, codec: of the file: pixels when shown, frames that decode, seconds. None
            where the file could not be decoded.
        bucket: the shape it is trained in, as `16x192x320`; None for a clip that is left out.
        cropped: the share of each frame that is cut away for it.
        captions: of the clip.
        brightness, motion: see `findings.Look`.
        shots: `(start, end)` of each in seconds, where there are several.
        thumbnail: a few frames side by side as a WebP in base64, where it was asked for.
    """

    id: str
    kept: bool
    kind: str
    fate: str
    flags: tuple[Flag, ...] = ()
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    duration: float | None = None
    codec: str | None = None
    bucket: str | None = None
    cropped: float | None = None
    captions: tuple[str, ...] = ()
    brightness: float | None = None
    motion: float | None = None
    shots: tuple[tuple[float, float], ...] = ()
    thumbnail: str | None = None


@dataclass(frozen=True)
class Report:
    """The fate of every clip; `manifest` is what training uses."""

    manifest: Manifest
    fates: list[Fate]
    settings: dict[str, Any]

    @property
    def buckets(self) -> list[Bucket]:
        """The bucket of each clip of the manifest."""
        return [Bucket.parse(fate.bucket) for fate in self.fates if fate.bucket]

    def counts(self) -> dict[str, int]:
        """How many clips have each kind of fate, the kept ones first."""
        order = sorted(self.fates, key=lambda fate: not fate.kept)
        return dict(Counter(f"{'kept' if fate.kept else 'left out'}: {fate.kind}" for fate in order))

    def found(self) -> dict[str, int]:
        """How many clips have each kind of flag, the most frequent first."""
        return dict(Counter(kind for fate in self.fates for kind in {flag.kind for flag in fate.flags}).most_common())

    def to_dict(self) -> dict[str, Any]:
        """The whole report as JSON can hold it, without the thumbnails."""
        return {
            "root": str(self.manifest.root),
            "layout": self.manifest.layout,
            "settings": self.settings,
            "counts": self.counts(),
            "found": self.found(),
            "clips": [_row(fate) for fate in self.fates],
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
        for bucket, count in sorted(Counter(self.buckets).items()):
            counts.add_row(f"bucket {bucket.in_words()}", str(count))
        parts: list[Table | Text] = [counts]
        if self.found():
            found = Table("flag", "what was found", "clips", title="Found", title_justify="left")
            for kind, count in self.found().items():
                found.add_row(kind, KINDS[kind], str(count))
            parts.append(found)
        odd = [fate for fate in self.fates if fate.kept and fate.flags]
        for title, rows in (
            ("Left out", [(fate.id, fate.fate) for fate in self.fates if not fate.kept]),
            ("Used, but odd", [(fate.id, "; ".join(flag.words for flag in fate.flags)) for fate in odd]),
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

    def of(self, bucket: Bucket) -> "_Wanted":
        """The same for the clips of one bucket."""
        return replace(self, num_frames=bucket.frames, height=bucket.height, width=bucket.width)


def check(
    manifest: Manifest,
    *,
    num_frames: int = 16,
    fps: float | None = None,
    height: int = 64,
    width: int = 64,
    short: Short = "repeat_last",
    buckets: Sequence[Bucket] | Way = (),
    upscale: bool = False,
    rules: ShapeRules = ALL,
    timeout: float = 60.0,
    workers: int | None = None,
    on_done: Callable[[int], None] | None = None,
    compare: bool = True,
    reader: CaptionReader | None = None,
    judge: FitJudge | None = None,
    drop: Collection[str] = (),
    thumbnails: bool = False,
    cache: Path | None = None,
) -> Report:
    """What becomes of each clip when it is sampled like this.

    Args:
        manifest: the clips, and what reading the layout left out already.
        num_frames, fps, height, width, short: as training samples them, see `video.sample`.
        buckets, upscale, rules: see `fitting.plan`; a clip that fits no bucket is left out.
        timeout: seconds that one file may take to decode before it counts as hanging.
        workers: processes that decode; None takes what the machine has.
        on_done: called with the number of files examined so far, for progress.
        compare: whether clips and captions are compared with each other: duplicates, shared captions.
        reader: what the text encoder can read; None checks no tokens and no scripts.
        judge: tells captions that do not fit their clips; None does without.
        drop: kinds of flags, of `flags.KINDS`, whose clips are left out. Of duplicates the first one stays.
        thumbnails: whether fates have one.
        cache: the file that remembers what was found in each video, see `check_cache`; None remembers nothing.

    Returns:
        A report whose manifest holds the clips that training can use.

    Raises:
        UsageError: there is no such kind of flag, or the rules forbid one of the buckets, or the size where there are
            none.
    """
    if unknown := sorted(set(drop) - KINDS.keys()):
        raise UsageError(f"There is no flag {', '.join(unknown)} to drop clips by. The flags are {', '.join(KINDS)}.")
    wanted, default = _Wanted(num_frames, fps, height, width, short), Bucket(num_frames, height, width)
    for bucket in buckets if buckets and not isinstance(buckets, str) else [default]:
        rules.check(bucket)
    found = examined(manifest.clips, cache, thumbnails, timeout, workers, on_done)
    infos = [info if isinstance(info := found[clip.id][0], VideoInfo) else None for clip in manifest.clips]
    places = plan(manifest.clips, infos, buckets, default, fps=fps, rules=rules, upscale=upscale)
    fates = {
        clip.id: _placed(clip, *found[clip.id], place, wanted, say=bool(buckets))
        for clip, place in zip(manifest.clips, places, strict=True)
    }

    def usable() -> list[Clip]:
        return [clip for clip in manifest.clips if fates[clip.id].kept]

    def add(flags: Mapping[str, Sequence[Flag]]) -> None:
        fates.update({id: _flagged(fates[id], own, drop) for id, own in flags.items()})

    add(dict.fromkeys(fates, ()))
    if compare:
        add(flags_of_captions(usable(), reader))
    if judge is not None:
        add(flags_of_fit(usable(), judge))
    if compare:  # last: of two that are alike, the one that stays has to be one that is used
        looks = {clip.id: look for clip in usable() if (look := found[clip.id][1])}
        again = near_duplicates({id: look.signature for id, look in looks.items()})
        add({id: [Flag("duplicate", f"nearly the same as {first}")] for id, first in again.items()})
    left_out = manifest.left_out + [LeftOut(fate.id, fate.fate) for fate in fates.values() if not fate.kept]
    kept = replace(manifest, clips=usable(), left_out=left_out)
    settings = asdict(wanted) | {"drop": sorted(drop)}
    return Report(kept, _with_notes(list(fates.values()), manifest.left_out), settings)


Found = tuple[VideoInfo | str, Look | None]


def examined(
    clips: Sequence[Clip],
    cache: Path | None,
    thumbnails: bool = False,
    timeout: float = 60.0,
    workers: int | None = None,
    on_done: Callable[[int], None] | None = None,
) -> dict[str, Found]:
    """What each clip's file holds, or the reason why it cannot be read, and what its frames show, by its id."""
    wanted: dict[Path, dict[Part, None]] = {}
    for clip in clips:
        wanted.setdefault(clip.path, {})[clip.start, clip.end] = None
    parts = {path: list(own) for path, own in wanted.items()}
    remembered = CheckCache(cache)
    try:
        answers: dict[Path, Answer] = {
            path: known for path, own in parts.items() if (known := remembered.get(path, own, thumbnails))
        }
        old, new = len(answers), [path for path in parts if path not in answers]
        if on_done and old:
            on_done(old)

        def take(path: Path, answer: Answer) -> None:
            answers[path] = answer
            if isinstance(answer, dict):  # a timeout or a crash may not happen again
                remembered.put(path, parts[path], answer)

        examine_all(
            new,
            timeout=timeout,
            workers=workers,
            on_done=(lambda done: on_done(old + done)) if on_done else None,
            on_answer=take,
            examine="text2video.data.findings:examine",
            options=[{"parts": parts[path], "thumbnails": thumbnails} for path in new],
        )
    finally:
        remembered.close()
    found: dict[str, Found] = {}
    read: dict[Path, Findings | str] = {}
    for path, answer in answers.items():
        reason = answer if isinstance(answer, str) else answer.get("reason")
        read[path] = reason or Findings.from_dict(answer)  # pyright: ignore[reportArgumentType]
    for clip in clips:
        file = read[clip.path]
        if isinstance(file, str):
            found[clip.id] = file, None
        else:
            found[clip.id] = file.info, file.looks[parts[clip.path].index((clip.start, clip.end))]
    return found


def _flagged(fate: Fate, flags: Sequence[Flag], drop: Collection[str]) -> Fate:
    """A fate with more flags, left out when one of them is to be."""
    fate = replace(fate, flags=(*fate.flags, *flags))
    reasons = [flag.words for flag in fate.flags if flag.kind in drop]
    if not fate.kept or not reasons:
        return fate
    return replace(fate, kept=False, kind="on request", fate=f"on request: {'; '.join(reasons)}")


def _with_notes(fates: list[Fate], left_out: list[LeftOut]) -> list[Fate]:
    """The fates with what reading the layout said: a flag on a clip that is kept, else a fate of its own."""
    notes: dict[str, list[str]] = defaultdict(list)
    for id, reason in left_out:
        notes[id].append(reason)
    noted = [
        replace(fate, flags=(*fate.flags, *(Flag("note", reason) for reason in notes.pop(fate.id, ()))))
        for fate in fates
    ]
    return noted + [
        Fate(id, False, reason.split(" (")[0].split(":")[0], reason)
        for id, reasons in notes.items()
        for reason in reasons
    ]


def _row(fate: Fate) -> dict[str, Any]:
    row = {key: value for key, value in asdict(fate).items() if key != "thumbnail"}
    return row | {"flags": [flag._asdict() for flag in fate.flags]}


def _measured(clip: Clip, info: VideoInfo) -> dict[str, Any]:
    return {
        "width": info.width,
        "height": info.height,
        "frames": info.num_frames,
        "fps": round(info.fps, 3),
        "duration": round(info.duration, 3),
        "codec": info.codec,
        "captions": clip.captions,
    }


def _placed(
    clip: Clip, info: VideoInfo | str, look: Look | None, place: Bucket | str | None, wanted: _Wanted, say: bool
) -> Fate:
    """The fate of a clip in its bucket, which is put into words where there are several to go to."""
    if isinstance(info, str) or place is None:
        return Fate(clip.id, False, "cannot be decoded", _reason(str(info), clip), captions=clip.captions)
    if isinstance(place, str):
        return Fate(clip.id, False, "fits no bucket", place, **_measured(clip, info))
    fate = _fate(clip, info, look, wanted.of(place))
    if not fate.kept:
        return fate
    share = cropped(info.height, info.width, place)
    words = f"{fate.fate}; bucket {place}, {share:.0%} of each frame is cropped" if say else fate.fate
    return replace(fate, fate=words, bucket=str(place), cropped=round(share, 4))


def _fate(clip: Clip, info: VideoInfo, look: Look | None, wanted: _Wanted) -> Fate:
    measured = _measured(clip, info)
    if look is None:
        reason = f"no frame lies between its start and end; the file lasts {info.duration:.2f} s"
        return Fate(clip.id, False, "no frame in its stretch", reason, **measured)
    measured |= {"brightness": look.brightness, "motion": look.motion, "thumbnail": look.thumbnail}
    measured |= {"shots": tuple(look.shots) if len(look.shots) > 1 else ()}
    count = 1 if clip.is_picture else wanted.num_frames
    enough = clip.is_picture or video.fits(look.frames, look.last - look.first, look.gap, count, wanted.fps)
    if not enough and wanted.short == "error":
        have = f"{look.frames} frames" if wanted.fps is None else f"{look.last - look.first + look.gap:.2f} s"
        rate = f" at {wanted.fps:g} fps" if wanted.fps else ""
        reason = f"too short: {have} for {count} frames{rate}. Ask for fewer, or let it repeat."
        return Fate(clip.id, False, "too short", reason, **measured)
    kind, sentence = _use(clip, info, wanted, count, min(count, look.frames))
    flags = _flags(clip, info, wanted, look)
    if not enough:
        flags = (*flags, Flag("short", sentence))
    if info.problem:
        kind, sentence = "the part that can be read", f"{info.problem}. Of the part that can be read: {sentence}"
    return Fate(clip.id, True, kind, sentence, flags, **measured)


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


def _flags(clip: Clip, info: VideoInfo, wanted: _Wanted, look: Look) -> tuple[Flag, ...]:
    """What is odd about a usable clip."""
    flags = of_frames(clip, info, look)
    scale = max(wanted.width / info.width, wanted.height / info.height)
    if scale > 1:
        flags.append(Flag("small", f"{info.width}x{info.height} pixels, enlarged {scale:.1f} times"))
    if not clip.is_picture and wanted.fps and wanted.fps > info.fps * 1.05:
        words = f"{info.fps:g} fps, fewer than the {wanted.fps:g} wanted: frames repeat"
        flags.append(Flag("low_fps", words))
    return tuple(flags)
