import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from text2video import video
from text2video.data.checks import Report, check
from text2video.data.clips import Clip, LeftOut, Manifest, clip_id
from text2video.data.dataset import TextVideoDataset
from text2video.data.flags import Flag
from text2video.data.layouts import read_layout

CLIPS = Path(os.environ.get("TEXT2VIDEO_CLIPS", Path(__file__).parents[2] / "../shared/clips")).resolve()
needs_clips = pytest.mark.skipif(not (CLIPS / "manifest.csv").is_file(), reason="the real clips are not here")


def noise(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    blocks = np.random.default_rng(0).integers(0, 256, (count, height // 16, width // 16, 3), np.uint8)
    return blocks.repeat(16, 1).repeat(16, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("checks")
    video.write(root / "long.mp4", noise(40), 20)
    video.write(root / "short.mp4", noise(5), 20)
    video.write(root / "black.mp4", np.zeros((20, 64, 64, 3), np.uint8), 20)
    video.write(root / "still.mp4", noise(1).repeat(20, 0), 20)
    Image.fromarray(noise(1)[0]).save(root / "picture.png")
    (root / "text.mp4").write_text("not a video")
    (root / "empty.mp4").write_bytes(b"")
    return root


def manifest_of(root: Path, *names: str, **times: float) -> Manifest:
    return Manifest(
        root,
        "made",
        [Clip(clip_id(n, **times), root / n, ("c",), **times) for n in names],
        [LeftOut("x", "the file is missing")],
    )


def fates(report: Report) -> dict[str, str]:
    return {fate.id: fate.fate for fate in report.fates}


@pytest.fixture(scope="module")
def report(folder) -> Report:
    names = ("long.mp4", "short.mp4", "black.mp4", "still.mp4", "picture.png", "text.mp4", "empty.mp4")
    return check(manifest_of(folder, *names), num_frames=16, height=48, width=48)


def test_every_clip_has_a_fate_and_the_manifest_holds_the_good_ones(report):
    assert [c.id for c in report.manifest.clips] == ["long.mp4", "short.mp4", "black.mp4", "still.mp4", "picture.png"]
    assert [left.id for left in report.manifest.left_out] == ["x", "text.mp4", "empty.mp4"]
    assert len(report.fates) == 8
    assert {fate.id for fate in report.fates if fate.kept} == {clip.id for clip in report.manifest.clips}
    assert sum(report.counts().values()) == 8


def test_fates_say_what_is_done(report):
    words = fates(report)
    assert words["long.mp4"] == "16 frames of its 40 frames, evenly spaced over 2.00 s"
    assert words["short.mp4"] == "5 frames of its 5 frames; for the other 11 its last frame stands still"
    assert "picture" in words["picture.png"]
    assert "0 bytes" in words["empty.mp4"]
    assert words["text.mp4"].startswith("cannot be opened")
    assert words["x"] == "the file is missing"


def test_odd_clips_are_flagged_and_kept(report):
    flags = {fate.id: [flag.kind for flag in fate.flags] for fate in report.fates if fate.flags}
    for kinds in flags.values():
        kinds.remove("caption_shared")  # all have the caption "c"
    flags = {id: kinds for id, kinds in flags.items() if kinds}
    assert flags.pop("picture.png") == ["duplicate"]  # the picture that stands still in still.mp4
    assert flags == {"short.mp4": ["short"], "black.mp4": ["black", "static"], "still.mp4": ["static"]}


def test_what_the_file_holds_is_told(report):
    long = report.fates[0]
    assert (long.width, long.height, long.frames, long.fps, long.duration, long.codec) == (64, 48, 40, 20, 2.0, "h264")


def test_the_rule_for_short_clips_decides(folder):
    manifest = manifest_of(folder, "long.mp4", "short.mp4", "picture.png")
    strict = check(manifest, num_frames=16, fps=10, height=48, width=48, short="error")
    assert [c.id for c in strict.manifest.clips] == ["long.mp4", "picture.png"]
    assert "left out: too short" in strict.counts()
    words = fates(check(manifest, num_frames=16, fps=10, height=96, width=96, short="loop"))
    assert "begins again" in words["short.mp4"]
    assert words["long.mp4"] == "16 frames at 10 fps: a window of 1.50 s in 2.00 s"


def test_what_the_layout_left_out_is_counted_by_its_reason(folder):
    manifest = manifest_of(folder, "long.mp4")
    manifest.left_out = [
        LeftOut("long.mp4", "one caption is not used: empty caption (t.csv line 3)"),
        LeftOut("a.mp4", "the file is missing (t.csv line 4)"),
        LeftOut("b.mp4", "the file is missing (t.csv line 5)"),
    ]
    report = check(manifest, num_frames=4, height=48, width=48)
    assert report.counts()["left out: the file is missing"] == 2
    assert [fate.id for fate in report.fates] == ["long.mp4", "a.mp4", "b.mp4"]
    assert Flag("note", manifest.left_out[0].reason) in report.fates[0].flags


def test_low_resolution_and_low_rate_are_flagged(folder):
    (fate, _) = check(manifest_of(folder, "long.mp4"), num_frames=16, fps=40, height=96, width=96).fates
    assert any("64x48 pixels, enlarged 2.0 times" in flag.words for flag in fate.flags)
    assert any("fewer than the 40" in flag.words for flag in fate.flags)


def test_a_stretch_is_judged_by_itself(folder):
    inside = check(manifest_of(folder, "long.mp4", start=0.5, end=1.5), num_frames=16)
    assert "stretch of 1.00 s" in inside.fates[0].fate
    beyond = check(manifest_of(folder, "long.mp4", start=5.0, end=6.0), num_frames=16)
    assert not beyond.manifest.clips


def test_a_clip_that_is_kept_can_be_trained_on_and_others_cannot(report):
    data = TextVideoDataset(report.manifest, num_frames=16, frame_size=48)
    assert [data[n]["id"] for n in range(len(data))] == data.ids


def test_the_report_is_json_and_fits_a_terminal(report, tmp_path):
    report.save(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["counts"] == report.counts()
    assert [row["id"] for row in content["clips"]] == [fate.id for fate in report.fates]
    assert content["settings"]["num_frames"] == 16
    out = io.StringIO()
    report.show(Console(file=out, width=100))
    assert "5 clips are used, 3 left out" in out.getvalue()
    assert "almost black" in out.getvalue()
    assert "empty.mp4" in out.getvalue()


def test_a_file_that_hangs_is_left_out_and_progress_is_told(folder):
    done = []
    check(manifest_of(folder, "long.mp4", "text.mp4"), on_done=done.append)
    assert done == [1, 2]
    hanging = check(manifest_of(folder, "long.mp4"), timeout=0.0)
    assert not hanging.manifest.clips


def test_the_same_files_give_the_same_report(folder, report):
    names = [fate.id for fate in report.fates if fate.id != "x"]
    again = check(manifest_of(folder, *names), num_frames=16, height=48, width=48, workers=1)
    assert again.to_dict() == report.to_dict()


@needs_clips
def test_real_clips_are_kept_with_the_right_frames_or_left_out_for_the_right_reason():
    with (CLIPS / "manifest.csv").open(encoding="utf-8", newline="") as file:
        truth = {row["file"]: row for row in csv.DictReader(file)}
    report = check(read_layout(CLIPS))
    assert {fate.id for fate in report.fates} == set(truth)
    for fate in report.fates:
        expected = truth[fate.id]
        assert fate.kept == (expected["expect"] != "reject"), fate
        if fate.kept:
            assert fate.frames == int(expected["frames"]), fate
        assert fate.kind == "the part that can be read" or expected["expect"] != "partial", fate
    words = fates(report)
    assert "only sound" in words["media__sample_audio_only.mp4"]
    assert "Git LFS" in words["dali_extra__cfr_test.lfs-pointer.mp4"]
    black = {fate.id for fate in report.fates if "black" in {flag.kind for flag in fate.flags}}
    assert black == {"media__silent-black-10s.mp4", "moviepy__no_duration.webm"}
