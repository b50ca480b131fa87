import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from text2video import video
from text2video.data.watch import examine_all
from text2video.video import VideoInfo


def misbehave(path: Path) -> VideoInfo:
    """What a worker calls in these tests: the file's name says what goes wrong."""
    if "hang" in path.name:
        time.sleep(60)
    if "crash" in path.name:
        os._exit(7)
    if "odd" in path.name:
        raise RuntimeError("something nobody thought of")
    if "noisy" in path.name:
        print("a library prints to standard output")
        os.write(1, b"and a C library does, too\n")
    return VideoInfo(1, 1, 1.0, os.getpid(), 1.0, path.name, "test")


MISBEHAVE = f"{__name__}:misbehave"


def test_files_that_hang_or_crash_are_named_and_stop_no_other():
    names = ["a", "hang", "b", "crash", "odd", "noisy", "c", "ä ü\n日本"]
    seen = []
    results = examine_all([Path(n) for n in names], timeout=3.0, workers=2, on_done=seen.append, examine=MISBEHAVE)
    assert seen == list(range(1, len(names) + 1))
    answers = dict(zip(names, results, strict=True))
    assert "within 3 s" in answers["hang"]
    assert "crashed" in answers["crash"]
    assert "7" in answers["crash"]
    assert "something nobody thought of" in answers["odd"]
    for name in ("a", "b", "c", "noisy", "ä ü\n日本"):
        assert answers[name]["codec"] == name


def test_processes_are_used_again():
    results = examine_all([Path(str(i)) for i in range(6)], workers=1, examine=MISBEHAVE)
    assert len({info["num_frames"] for info in results}) == 1
    assert results[0]["num_frames"] != os.getpid()


def test_real_examination(tmp_path):
    video.write(tmp_path / "good.mp4", np.zeros((6, 16, 16, 3), np.uint8), 8)
    (tmp_path / "bad.mp4").write_text("not a video")
    good, bad, gone = examine_all([tmp_path / "good.mp4", tmp_path / "bad.mp4", tmp_path / "gone.mp4"])
    assert VideoInfo(**good) == video.examine(tmp_path / "good.mp4")
    assert isinstance(bad, str)
    assert "bad.mp4" in bad
    assert "does not exist" in gone
    assert json.dumps(good)


def test_nothing_to_do():
    assert examine_all([]) == []


def test_interrupting_kills_the_workers():
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        examine_all([Path("a"), Path("hang"), Path("hang2")], workers=2, on_done=stop, examine=MISBEHAVE)
    assert time.monotonic() - began < 50  # the hanging one would have slept 60 s
