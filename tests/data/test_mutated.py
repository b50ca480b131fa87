"""Damaged files: whatever bytes stand in a clip, nothing hangs, crashes this process or eats its memory."""

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest

from text2video import video
from text2video.data.checks import check
from text2video.data.clips import Clip, Manifest
from text2video.data.dataset import TextVideoDataset
from text2video.data.watch import examine_all
from text2video.errors import DataError
from text2video.video import VideoInfo

SECONDS = 10.0  # that one operation may compute: on a busy machine it lasts longer
MEGABYTES = 1500  # that a worker may ever hold, torch included
REAL = [
    *("torchcodec__h265_10bits.mp4", "imageio-binaries__newtonscradle.gif", "media__bear-vp9-odd-dimensions.webm"),
    *("torchcodec__av1_video.mkv", "vgen__v_PlayingGuitar_g03_c01.avi", "dali_extra__cfr.mpeg"),
    *("media__bbb_176x144_128kbps_15fps_h263.3gp", "decord__flipping_a_pancake.mkv", "text2video-zero__fox.mp4"),
    "decord__unordered.mov",
]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A copy with single bytes changed, a stretch overwritten, cut out or doubled, or the end missing."""
    copy, size = bytearray(data), len(data)
    kind = rng.integers(6)
    span = min(size, 2048) if rng.random() < 0.4 else size  # headers deserve more than their share
    at = int(rng.integers(span))
    stretch = slice(at, min(size, at + int(2 ** rng.integers(0, 12))))
    length = stretch.stop - stretch.start
    if kind == 0:
        for place in rng.integers(0, span, int(2 ** rng.integers(0, 7))):
            copy[place] = rng.integers(256)
    elif kind == 1:
        copy[stretch] = rng.bytes(length)
    elif kind == 2:
        copy[stretch] = bytes([int(rng.choice([0, 255]))]) * length
    elif kind == 3:
        del copy[stretch]
    elif kind == 4:
        copy[at:at] = copy[stretch]
    else:
        del copy[max(1, int(rng.integers(size))) :]
    return bytes(copy)


def write_mutated(sources: list[Path], folder: Path, copies: int) -> list[Path]:
    paths = []
    for source, number in product(sources, range(copies)):
        paths.append(folder / f"{number:03d}-{source.name}")
        paths[-1].write_bytes(mutated(source.read_bytes(), np.random.default_rng([number, source.stat().st_size])))
    return paths


def measured(path: Path, seconds: list[float]) -> VideoInfo:
    """What a worker of these tests answers: the most memory it ever held, in megabytes, and the longest operation."""
    held = 0.0
    if sys.platform != "win32":
        import resource

        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    return VideoInfo(0, 0, max(seconds), 0, held, path.name, "measured")


def timed(operations: Iterator[None]) -> list[float]:
    seconds, began = [], time.process_time()
    for _ in operations:
        seconds.append(time.process_time() - began)
        began = time.process_time()
    return seconds


def examined(path: Path) -> VideoInfo:
    """`examine` in a worker, measured."""

    def operations() -> Iterator[None]:
        yield
        video.examine(path)
        yield

    return measured(path, timed(operations()))


def loaded(path: Path) -> VideoInfo:
    """Items of a data set in a worker, measured: evenly, from windows of several epochs, and from a stretch."""

    def operations() -> Iterator[None]:
        yield
        clips = [Clip(path.name, path, ("a caption",)), Clip(f"{path.name}#0.1-0.9", path, ("a caption",), 0.1, 0.9)]
        for fps, clip, epoch in ((None, 0, 0), (8.0, 0, 0), (8.0, 0, 1), (8.0, 1, 0)):
            dataset = TextVideoDataset([clips[clip]], num_frames=8, frame_size=32, fps=fps)
            with suppress(DataError):  # it cannot be read
                assert dataset[0, epoch]["video"].shape == (3, 8, 32, 32)
            yield

    return measured(path, timed(operations()))


def hold_to_limits(paths: list[Path], workers: int = 2) -> tuple[int, float, float]:
    """(how many can be used, the longest operation in seconds, the most memory in megabytes)"""
    usable, seconds, megabytes = 0, 0.0, 0.0
    for what in (examined, loaded):
        answers = examine_all(paths, timeout=6 * SECONDS, workers=workers, examine=f"{__name__}:{what.__name__}")
        for path, answer in zip(paths, answers, strict=True):
            if isinstance(answer, str):
                assert what is examined, answer
                assert "was not decoded within" not in answer, answer
                assert "crashed" not in answer, answer
                assert "Traceback" not in answer, answer
                assert "Error:" not in answer, answer
            else:
                assert answer["fps"] < SECONDS, path.name
                assert answer["duration"] < MEGABYTES, path.name
                usable += what is examined
                seconds, megabytes = max(seconds, answer["fps"]), max(megabytes, answer["duration"])
    return usable, seconds, megabytes


@pytest.fixture(scope="module")
def own_clips(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("own")
    y, x = np.mgrid[0:48, 0:64]
    frames = np.stack([np.stack([x * 3 + 4 * t, y * 4 + 2 * t, (x + y) * 2], -1) % 256 for t in range(24)])
    for name in ("a.mp4", "b.gif"):
        video.write(folder / name, frames.astype(np.uint8), 12)
    for name, codec in (("c.webm", "libvpx"), ("d.avi", "mpeg4")):
        with av.open(str(folder / name), "w") as out:
            stream = out.add_stream(codec, rate=12)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for frame in frames:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame.astype(np.uint8), format="rgb24")))
            out.mux(stream.encode(None))
    return sorted(folder.iterdir())


def test_damaged_copies_stay_within_limits(own_clips, tmp_path):
    paths = write_mutated(own_clips, tmp_path, 10)
    usable, _, _ = hold_to_limits(paths)
    assert 10 < usable <= 40


def test_what_passes_the_check_is_what_training_can_read(own_clips, tmp_path):
    paths = write_mutated(own_clips, tmp_path, 6)
    manifest = Manifest(tmp_path, "made", [Clip(path.name, path, ("a",)) for path in paths])
    report = check(manifest, num_frames=8, fps=6, height=32, width=32)
    assert len(report.fates) == len(paths)
    dataset = TextVideoDataset(report.manifest, num_frames=8, fps=6, frame_size=32)
    for epoch, index in product(range(2), range(len(dataset))):
        assert dataset[index, epoch]["id"] == dataset.ids[index]


def test_a_damaged_file_gives_the_same_frames_every_time(own_clips, tmp_path):
    for path in write_mutated(own_clips, tmp_path, 4):
        try:
            first, second = (video.sample(path, 8, height=24, width=24) for _ in range(2))
        except video.reading.VideoError:
            continue
        assert np.array_equal(first.frames, second.frames)


@pytest.mark.slow
def test_a_thousand_damaged_copies_of_real_clips(real_clips, tmp_path):
    paths = write_mutated([real_clips / name for name in REAL], tmp_path, 100)
    usable, seconds, megabytes = hold_to_limits(paths)
    print(f"{usable} of {len(paths)} can be used; longest operation {seconds:.1f} s; most memory {megabytes:.0f} MB")
    assert usable > 300
