import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from text2video import video
from text2video.data import checks
from text2video.data.check_cache import cache_file
from text2video.data.checks import check
from text2video.data.clips import Clip, Manifest, clip_id


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    frames = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), np.uint8)
    for name in ("a.mp4", "b.mp4"):
        video.write(tmp_path / name, frames, 8)
    (tmp_path / "bad.mp4").write_text("not a video")
    return Manifest(tmp_path, "made", [Clip(n, tmp_path / n, (n,)) for n in ("a.mp4", "b.mp4", "bad.mp4")])


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the files that are really examined."""
    names: list[str] = []
    really = checks.examine_all

    def examine_all(paths, **options):
        names.extend(path.name for path in paths)
        return really(paths, **options)

    monkeypatch.setattr(checks, "examine_all", examine_all)
    return names


def test_what_has_not_changed_is_not_decoded_again(manifest, tmp_path, decoded):
    cache, done = tmp_path / "c" / "checks.sqlite", []
    first = check(manifest, cache=cache)
    assert decoded == ["a.mp4", "b.mp4", "bad.mp4"]
    decoded.clear()
    again = check(manifest, cache=cache, on_done=done.append)
    assert decoded == []
    assert done == [3]
    assert again.to_dict() == first.to_dict()
    os.utime(tmp_path / "a.mp4", (1, 1))
    (tmp_path / "bad.mp4").write_text("still no video")
    check(manifest, cache=cache)
    assert decoded == ["a.mp4", "bad.mp4"]


def test_stretches_and_thumbnails_are_examined_when_first_asked_for(manifest, tmp_path, decoded):
    cache = tmp_path / "checks.sqlite"
    check(manifest, cache=cache)
    decoded.clear()
    a = tmp_path / "a.mp4"
    parts = Manifest(tmp_path, "made", [Clip(clip_id("a.mp4", 0, 1), a, ("a",), 0, 1)])
    check(parts, cache=cache)
    assert decoded == ["a.mp4"]
    check(manifest, cache=cache)
    check(parts, cache=cache)
    assert decoded == ["a.mp4"]
    assert all(fate.thumbnail for fate in check(manifest, cache=cache, thumbnails=True).fates if fate.kept)
    assert decoded == ["a.mp4", "a.mp4", "b.mp4"]


def test_a_timeout_is_not_remembered(manifest, tmp_path, decoded):
    cache = tmp_path / "checks.sqlite"
    assert not check(manifest, cache=cache, timeout=0.0).manifest.clips
    assert check(manifest, cache=cache).manifest.clips


def test_a_cache_that_is_broken_or_busy_is_done_without(manifest, tmp_path, caplog, monkeypatch):
    broken = tmp_path / "checks.sqlite"
    broken.write_bytes(b"no data base at all" * 100)
    assert len(check(manifest, cache=broken).manifest.clips) == 2
    assert "is not remembered" in caplog.text
    monkeypatch.setattr("text2video.data.check_cache._BUSY", 0.1)
    busy = tmp_path / "busy.sqlite"
    check(manifest, cache=busy)
    with sqlite3.connect(busy) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert len(check(manifest, cache=busy).manifest.clips) == 2


def test_the_environment_moves_it(monkeypatch, tmp_path):
    monkeypatch.setenv("TEXT2VIDEO_CACHE", str(tmp_path / "mine"))
    assert cache_file() == tmp_path / "mine" / "checks.sqlite"
    monkeypatch.delenv("TEXT2VIDEO_CACHE")
    assert cache_file().is_relative_to(Path.home())
