"""A cleaned manifest from a check: what is used, shots as clips of their own, and the reasons for the rest."""

from dataclasses import replace
from pathlib import Path

from ..errors import UsageError
from .checks import Report
from .clips import LeftOut, Manifest, clip_id

_SHORTEST = 0.4  # seconds of a shot that becomes a clip


def fixed(report: Report) -> Manifest:
    """The manifest of a report, in which each shot of a clip with several is a clip with the clip's captions.

    A shot under 0.4 seconds is left out with that reason.
    """
    shots = {fate.id: fate.shots for fate in report.fates}
    manifest = Manifest(report.manifest.root, report.manifest.layout, [], list(report.manifest.left_out))
    known = {clip.id for clip in report.manifest.clips}
    for clip in report.manifest.clips:
        for start, end in shots[clip.id]:
            id = clip_id(clip.source, start, end)
            if end - start < _SHORTEST:
                reason = f"a shot of {end - start:.2f} s, cut from {clip.id}: clips have at least {_SHORTEST:g} s"
                manifest.left_out.append(LeftOut(id, reason))
            elif id not in known:  # as when a list names the shots already
                known.add(id)
                manifest.clips.append(replace(clip, id=id, start=start, end=end))
        if not shots[clip.id]:
            manifest.clips.append(clip)
    return manifest


def save_fixed(report: Report, path: str | Path) -> Manifest:
    """Writes the cleaned manifest, as JSON lines or Parquet by its name; the clips stay as they are.

    Raises:
        UsageError: something stands there already, or the name ends otherwise.
        DataError: a clip's file lies outside of the data root.
    """
    path = Path(path)
    check_target(path)
    manifest = fixed(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest.save(path)
    return manifest


def check_target(path: Path) -> None:
    """Whether a cleaned manifest can be written there. UsageError if not."""
    if path.suffix.lower() not in (".jsonl", ".parquet"):
        raise UsageError(f"{path} is no name for a manifest: it ends in .jsonl or .parquet, such as {path.stem}.jsonl.")
    if path.exists():
        raise UsageError(f"{path} exists already, and nothing is overwritten. Give another name, or remove it.")
