"""How much of what is odd in clips does `data check` find, and how often does it see what is not there?

Clips are made, written as MP4 files, and checked. For near-duplicates, shots, black, dark, static and slow clips and
for burned-in text it prints how many were found and how many findings were wrong; shots also by PySceneDetect, where
it is installed.

    python benchmarks/data_check.py --clips 120
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import RESULTS, write_result
from material import FPS, demo_shot, joined, shot, with_text

from text2video import video
from text2video.data.checks import Report, check
from text2video.data.clips import Clip, Manifest

JOINS, TRAPS = ("cut", "dissolve", "fade"), ("pan", "rush", "flash", "light", "plain")
SLACK = 0.15  # seconds


def write(folder: Path, clips: dict[str, np.ndarray], fps: dict[str, float] | None = None) -> Manifest:
    """Clips as files of a folder, and their manifest."""
    listed = []
    for name, frames in clips.items():
        path = folder / f"{name}.mp4"
        video.write(path, frames, (fps or {}).get(name, FPS))
        listed.append(Clip(f"{name}.mp4", path, (f"clip {name}",)))
    return Manifest(folder, "made", listed)


def examined(clips: dict[str, np.ndarray], fps: dict[str, float] | None = None) -> Report:
    """The check of clips, written into a folder that goes again."""
    with tempfile.TemporaryDirectory() as folder:
        return check(write(Path(folder), clips, fps))


def kinds(report: Report) -> dict[str, set[str]]:
    """Name -> kinds of flags."""
    return {fate.id.removesuffix(".mp4"): {flag.kind for flag in fate.flags} for fate in report.fates}


def rates(truth: set[str], found: set[str]) -> dict[str, float | int]:
    """How many there are, and the shares found and right."""
    hits = len(truth & found)
    return {
        "there": len(truth),
        "found": len(found),
        "recall": round(hits / len(truth), 3) if truth else 1.0,
        "precision": round(hits / len(found), 3) if found else 1.0,
    }


def duplicates(count: int) -> dict[str, dict[str, float | int]]:
    """Copies of clips that were encoded again, at another size, rate or light, or cropped, among other clips.

    A third of the clips are of the demo world; every fourth picture comes with a second take of its scene.
    """
    clips: dict[str, np.ndarray] = {}
    fps: dict[str, float] = {}
    for i in range(count):
        rng = np.random.default_rng([1, i])
        name, demo = f"{i:03d}", i % 3 == 0
        frames = demo_shot(i, 48) if demo else shot(rng, 48)
        clips[name] = frames
        height, width = frames.shape[1:3]
        way = ("encoded", "smaller", "brighter", "half_rate", "cropped")[i // 3 % 5]
        if way == "encoded":
            copy = (frames + rng.normal(0, 5, frames.shape)).clip(0, 255).astype(np.uint8)
        elif way == "smaller":
            copy = video.resize(frames, 62, 110)
        elif way == "brighter":
            copy = (frames * 1.15 + 8).clip(0, 255).astype(np.uint8)
        elif way == "half_rate":
            copy = frames[::2]
            fps[f"{name} {way}"] = FPS / 2
        else:
            top, left = rng.integers(0, 6), rng.integers(0, 10)
            copy = frames[:, top : height - 5 + top, left : width - 9 + left]
        clips[f"{name} {way}{' demo' if demo else ''}"] = copy
        if i % 4 == 1 and not demo:
            scene = np.random.default_rng([2, i])
            clips[f"{name}-take1"] = shot(np.random.default_rng([3, i]), 48, 0.0, things=3, scene=scene)
            scene = np.random.default_rng([2, i])
            clips[f"{name}-take2"] = shot(np.random.default_rng([4, i]), 48, 0.0, things=3, scene=scene)
    report = examined(clips, fps)
    said = {
        fate.id.removesuffix(".mp4"): flag.words.removeprefix("nearly the same as ").removesuffix(".mp4")
        for fate in report.fates
        for flag in fate.flags
        if flag.kind == "duplicate"
    }
    found: dict[str, dict[str, float | int]] = {}
    for world in ("pictures", "demo world"):
        own = {name for name in clips if (int(name[:3]) % 3 == 0) == (world == "demo world")}
        copies = {name for name in own if " " in name}
        right = {
            name for name, first in said.items() if name in copies and first[:3] == name[:3] and "take" not in first
        }
        wrong = {name for name in said if name in own} - right
        found[f"duplicates, {world}"] = rates(copies, right | {f"wrong {name}" for name in wrong})
        for way in ("encoded", "smaller", "brighter", "half_rate", "cropped"):
            these = {name for name in copies if f" {way}" in name}
            found[f"  {way}, {world}"] = {"there": len(these), "found": len(these & right)}
    takes = {name for name in clips if "take" in name}
    found["  two takes of one scene"] = {"there": len(takes) // 2, "taken for the same": len(takes & said.keys())}
    return found


def hits(found: list[float], truth: list[tuple[float, float]]) -> int:
    """How many true changes of shot have a found one."""
    return sum(any(start - SLACK <= at <= end + SLACK for at in found) for start, end in truth)


def shots(count: int) -> dict[str, dict[str, float | int]]:
    """Clips of two shots, and of one with what is easily taken for a change."""
    clips, truth = {}, {}
    for number, how in enumerate((*JOINS, *TRAPS)):
        for i in range(count // 8):
            clips[f"{how}-{i}"], truth[f"{how}-{i}"] = joined(np.random.default_rng([5, number, i]), how)
    found: dict[str, dict[str, float | int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        manifest = write(Path(folder), clips)
        ours = {
            fate.id.removesuffix(".mp4"): [(a[1] + b[0]) / 2 for a, b in zip(fate.shots, fate.shots[1:], strict=False)]
            for fate in check(manifest).fates
        }
        found |= shot_rates("text2video", ours, truth)
        for name, detect in peers().items():
            found |= shot_rates(name, {clip.path.stem: detect(clip.path) for clip in manifest.clips}, truth)
    return found


def shot_rates(
    who: str, found: dict[str, list[float]], truth: dict[str, list[tuple[float, float]]]
) -> dict[str, dict[str, float | int]]:
    """Rates of all changes together, and counts by their kind."""
    right = {name: hits(found[name], truth[name]) for name in truth}
    wrong = Counter({name: max(0, len(found[name]) - right[name]) for name in truth})
    there, good, bad = sum(map(len, truth.values())), sum(right.values()), wrong.total()
    rows: dict[str, dict[str, float | int]] = {
        f"shots, {who}": {
            "there": there,
            "found": good + bad,
            "recall": round(good / there, 3),
            "precision": round(good / max(1, good + bad), 3),
        }
    }
    for how in (*JOINS, *TRAPS):
        own = [name for name in truth if name.startswith(how)]
        rows[f"  {how}, {who}"] = {
            "there": sum(len(truth[name]) for name in own),
            "found": sum(right[name] for name in own),
            "wrong": sum(wrong[name] for name in own),
        }
    return rows


def peers() -> dict[str, Callable[[Path], list[float]]]:
    """PySceneDetect's detectors with their own settings, where it is installed; scenes of 5 frames are allowed."""
    try:
        import scenedetect
    except ImportError:
        print("PySceneDetect is missing and left out: pip install scenedetect opencv-python-headless")
        return {}

    def with_detector(kind: str) -> Callable[[Path], list[float]]:
        def detect(path: Path) -> list[float]:
            scenes = scenedetect.detect(str(path), getattr(scenedetect, kind)(min_scene_len=5))
            return [start.seconds for start, _ in scenes[1:]]

        return detect

    return {f"PySceneDetect {kind}": with_detector(kind) for kind in ("ContentDetector", "AdaptiveDetector")}


def light_and_motion(count: int) -> dict[str, dict[str, float | int]]:
    """Black, dark, static and slow clips among ordinary ones."""
    clips: dict[str, np.ndarray] = {}
    for i in range(count // 6):
        rng = np.random.default_rng([6, i])
        noise = rng.normal(0, 2, (48, 90, 160, 3))
        clips[f"black-{i}"] = (rng.uniform(0, 6) + noise).clip(0, 255).astype(np.uint8)
        clips[f"dark-{i}"] = (shot(rng, 48) * 0.15).astype(np.uint8)
        still = shot(rng, 1, 0.0)
        clips[f"static-{i}"] = (still + noise / 2).clip(0, 255).astype(np.uint8)
        slow = shot(rng, 48, 0.0, things=0)
        slow[:, 40:46, 70:80] = (slow[:, 40:46, 70:80] * np.linspace(1, 0.4, 48)[:, None, None, None]).astype(np.uint8)
        clips[f"slow-{i}"] = slow  # a spot changes its light
        clips[f"pan-{i}"] = shot(rng, 48, float(rng.choice([0.02, 0.1])))
        clips[f"things-{i}"] = shot(rng, 48, 0.0)
    found = kinds(examined(clips))
    names = {"black": "black", "dark": "dark", "static": "static", "low_motion": "slow"}
    # what is black may stand still, too, and the dark ones may be slow
    judged = {name for name in clips if not name.startswith(("black", "dark"))}
    rows = {}
    for kind, start in names.items():
        of = judged if kind in ("static", "low_motion") else clips.keys()
        rows[kind] = rates(
            {name for name in clips if name.startswith(f"{start}-")}, {name for name in of if kind in found[name]}
        )
    return rows


def text(count: int) -> dict[str, dict[str, float | int]]:
    """Moving pictures with and without a word over them."""
    clips: dict[str, np.ndarray] = {}
    for i in range(count // 2):
        rng = np.random.default_rng([7, i])
        frames = shot(rng, 60, float(rng.choice([0.0, 0.05, 0.1, 0.3], p=[0.1, 0.3, 0.3, 0.3])))
        clips[f"plain-{i}"], clips[f"text-{i}"] = frames, with_text(rng, frames)
    found = kinds(examined(clips))
    return {"text": rates({n for n in clips if n.startswith("text")}, {n for n in clips if "text" in found[n]})}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=120, help="of each kind of finding, about")
    parts = {part.__name__: part for part in (duplicates, shots, light_and_motion, text)}
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts), help="the others' results are kept")
    options = parser.parse_args()
    count, kept = options.clips, RESULTS / "data_check.json"
    results: dict[str, dict[str, float | int]] = {}
    if kept.is_file() and len(options.parts) < len(parts):
        results = json.loads(kept.read_text(encoding="utf-8"))["results"]
    for part in (parts[name] for name in options.parts):
        began = time.perf_counter()
        found = part(count)
        results |= {name.strip(): row for name, row in found.items()}
        for name, row in found.items():
            print(f"{name:<36} {', '.join(f'{key} {value}' for key, value in row.items())}", flush=True)
        print(f"  ({part.__name__}: {time.perf_counter() - began:.0f} s)", flush=True)
    write_result("data_check", {"clips": count, "results": results}, ("av",))


if __name__ == "__main__":
    main()
