import json
import re

import numpy as np
import pytest

from text2video import video
from text2video.data.check_page import smaller, write_page
from text2video.data.checks import check
from text2video.data.clips import Clip, Manifest
from text2video.data.fix import fixed, save_fixed
from text2video.data.layouts import read_layout
from text2video.errors import UsageError

EVIL = "</script><script>alert(1)</script><!-- \u2028 \" ' 猫 $data"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Three shots, the last one a moment long; a clip with an evil caption; a broken one."""
    root, rng = tmp_path_factory.mktemp("page"), np.random.default_rng(1)
    shots = [rng.integers(0, 256, (1, 6, 8, 3), np.uint8).repeat(16, 1).repeat(16, 2) for _ in range(3)]
    counts = (20, 20, 5)
    video.write(root / "shots.mp4", np.concatenate([s.repeat(n, 0) for s, n in zip(shots, counts, strict=True)]), 20)
    video.write(root / "b.mp4", rng.integers(0, 256, (9, 32, 32, 3), np.uint8), 8)
    (root / "bad.mp4").write_text("no video")
    captions = {"shots.mp4": "three pictures", "b.mp4": EVIL, "bad.mp4": "none"}
    clips = [Clip(name, root / name, (caption,)) for name, caption in captions.items()]
    return check(Manifest(root, "made", clips), thumbnails=True)


def test_the_page_holds_every_clip_and_nothing_of_it_can_act(report, tmp_path):
    write_page(report, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in page
    assert page.count("<script") == 2
    assert not re.search(r"(src|href)=[\"']?https?:|@import|url\(", page)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert [clip["id"] for clip in data["clips"]] == ["shots.mp4", "b.mp4", "bad.mp4"]
    assert data["clips"][1]["captions"] == [EVIL]
    assert [bool(clip["picture"]) for clip in data["clips"]] == [True, True, False]
    assert all(len(clip["picture"] or "") < 15_000 for clip in data["clips"])


def test_thumbnails_become_smaller_and_then_go(report):
    picture = report.fates[1].thumbnail
    assert smaller(picture, 1_000_000) == picture
    assert len(smaller(picture, 700)) <= 934  # base64 of 700 bytes
    assert smaller(picture, 10) is None


def test_shots_become_clips_and_nothing_is_lost(report, tmp_path):
    manifest = fixed(report)
    assert [clip.id for clip in manifest.clips] == ["shots.mp4#0-1", "shots.mp4#1-2", "b.mp4"]
    assert {clip.captions for clip in manifest.clips[:2]} == {("three pictures",)}
    left = dict(manifest.left_out)
    assert left.keys() == {"shots.mp4#2-2.25", "bad.mp4"}
    assert "0.25 s" in left["shots.mp4#2-2.25"]
    for name in ("clean.jsonl", "clean.parquet"):
        save_fixed(report, tmp_path / name)
        read = read_layout(dataset_file=tmp_path / name, data_root=report.manifest.root)
        assert read.clips == manifest.clips
        assert read.left_out == manifest.left_out
    again = check(read)
    assert [clip.id for clip in again.manifest.clips] == [clip.id for clip in manifest.clips]
    assert not any(fate.shots for fate in again.fates)


def test_nothing_is_overwritten(report, tmp_path):
    (tmp_path / "there.jsonl").write_text("mine")
    for name in ("there.jsonl", "clean.csv"):
        with pytest.raises(UsageError):
            save_fixed(report, tmp_path / name)
    assert (tmp_path / "there.jsonl").read_text() == "mine"
    with pytest.raises(UsageError, match="no flag blurry"):
        check(report.manifest, drop=["blurry"])
