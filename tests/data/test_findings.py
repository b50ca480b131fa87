"""What frames show, on the clips of `benchmarks/material.py`; all of the benchmark's trials when slow."""

import base64
import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from text2video import video
from text2video.data.checks import check
from text2video.data.clips import Clip, Manifest
from text2video.data.findings import Findings, examine
from text2video.data.shots import ShotFinder, gaps

_folder = Path(__file__).parents[2] / "benchmarks"


def _script(name: str):
    spec = importlib.util.spec_from_file_location(name, _folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(_folder))
material = _script("material")
sys.path.remove(str(_folder))


def small(frames: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(f).resize((16, 16), Image.Resampling.BOX)) for f in frames])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder of clips, each with a name that says what is in it."""
    root = tmp_path_factory.mktemp("findings")
    rng = np.random.default_rng(0)
    plain, other = material.shot(rng, 48, 0.1), material.shot(rng, 48, 0.1)
    clips = {
        "plain": plain,
        "copy": video.resize((plain * 0.9 + 10).astype(np.uint8)[:, 3:-3, 5:-5], 72, 128),
        "text": material.with_text(np.random.default_rng(1), other),
        "black": np.zeros_like(plain),
        "dark": (other * (22 / other.mean())).astype(np.uint8),
        "static": material.shot(rng, 1, 0.0).repeat(20, 0),
        "cut": np.concatenate([plain[:24], other[:24]]),
    }
    slow = material.shot(rng, 1, 0.0).repeat(30, 0)
    slow[:, 40:46, 70:80] = (slow[:, 40:46, 70:80] * np.linspace(1, 0.3, 30)[:, None, None, None]).astype(np.uint8)
    clips["low_motion"] = slow
    for name, frames in clips.items():
        video.write(root / f"{name}.mp4", frames, 24)
    return root


def manifest_of(root: Path, *names: str) -> Manifest:
    return Manifest(root, "made", [Clip(f"{n}.mp4", root / f"{n}.mp4", (f"a clip that is {n}",)) for n in names])


def found(report) -> dict[str, set[str]]:
    return {fate.id.removesuffix(".mp4"): {flag.kind for flag in fate.flags} - {"small"} for fate in report.fates}


ALL = ("plain", "copy", "text", "black", "dark", "static", "cut", "low_motion")


def test_each_finding_is_found_where_it_is_and_nowhere_else(made):
    flags = found(check(manifest_of(made, *ALL)))
    assert flags.pop("black") == {"black", "static"}
    assert flags.pop("dark") >= {"dark"}
    assert flags.pop("copy") == {"duplicate"}
    assert flags.pop("cut") == {"shots"}
    assert flags.pop("plain") == set()
    assert flags == {name: {name} for name in ("text", "static", "low_motion")}


def test_what_is_odd_is_left_out_on_request_and_of_duplicates_one_stays(made):
    report = check(manifest_of(made, *ALL), drop=["black", "static", "duplicate"])
    assert {clip.id for clip in report.manifest.clips} == {
        *("plain.mp4", "text.mp4", "dark.mp4", "cut.mp4", "low_motion.mp4")
    }
    reasons = dict(report.manifest.left_out)
    assert reasons["copy.mp4"] == "on request: nearly the same as plain.mp4"
    assert "almost black" in reasons["black.mp4"]
    swapped = check(manifest_of(made, "copy", "plain"), drop=["duplicate"])
    assert [clip.id for clip in swapped.manifest.clips] == ["copy.mp4"]


def test_one_decoding_looks_at_each_stretch_by_itself(made):
    found = Findings.from_dict(examine(made / "cut.mp4", [(None, None), (0.0, 1.0), (1.0, 2.0), (7.0, 8.0)], True))
    whole, first, second, beyond = found.looks
    assert beyond is None
    assert (whole.frames, first.frames, second.frames) == (48, 24, 24)
    assert np.allclose(whole.shots, [(0, 1), (1, 2)])
    assert len(first.shots) == len(second.shots) == 1
    assert first.signature != second.signature
    content = base64.b64decode(whole.thumbnail)
    assert len(content) < 9000
    assert Image.open(io.BytesIO(content)).size == (4 * 160, 90)


@pytest.mark.parametrize("how", ["cut", "dissolve", "fade", "flash", "light", "pan"])
def test_shots_change_at_cuts_dissolves_and_fades_alone(how):
    frames, truth = material.joined(np.random.default_rng([1, len(how)]), how)
    times = np.arange(len(frames)) / material.FPS
    seen = [(times[a] + times[b]) / 2 for a, b in gaps(small(frames), times)]
    assert len(seen) == len(truth)
    assert all(start - 0.1 <= at <= end + 0.1 for at, (start, end) in zip(seen, truth, strict=True))


def test_shots_of_a_long_video_are_found_in_bounded_memory():
    rng = np.random.default_rng(0)
    finder, most = ShotFinder(), 0
    for index in range(6000):
        if index % 500 == 0:
            picture = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        finder.see(index / 25, picture)
        most = max(most, len(finder._times))
    assert finder.shots(0.0, 240.0) == [(20.0 * n, 20.0 * (n + 1)) for n in range(12)]
    assert most < 2500


@pytest.mark.slow
def test_the_rates_of_the_benchmark():
    sys.path.insert(0, str(_folder))
    trials = _script("data_check")
    rows = trials.duplicates(60) | trials.shots(64) | trials.light_and_motion(60) | trials.text(40)
    assert rows["duplicates, pictures"]["recall"] >= 0.9
    assert rows["duplicates, pictures"]["precision"] >= 0.95
    assert rows["shots, text2video"]["recall"] >= 0.9
    assert rows["shots, text2video"]["precision"] >= 0.9
    for kind in ("black", "dark", "static", "low_motion", "text"):
        assert rows[kind]["recall"] >= 0.85, kind
        assert rows[kind]["precision"] >= 0.8, kind
