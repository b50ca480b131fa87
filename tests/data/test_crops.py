"""Crops of clips: from anywhere in time and space, the same for the same (seed, epoch, clip), never enlarged."""

import numpy as np
import pytest

from text2video import video
from text2video.data.clips import Clip
from text2video.data.crops import ZOOM, CropDataset, cut


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Clip:
    """40 frames of 96x64 pixels: red says when, green how far down, blue how far right."""
    frames = np.zeros((40, 64, 96, 3), np.uint8)
    frames[..., 0] = 6 * np.arange(40)[:, None, None]
    frames[..., 1] = 2 * np.arange(64)[None, :, None]
    frames[..., 2] = 2 * np.arange(96)[None, None, :]
    path = tmp_path_factory.mktemp("clips") / "ramp.mp4"
    video.write(path, frames, 20)
    return Clip("ramp.mp4", path, ("a ramp",))


def crops(clip: Clip, **options) -> CropDataset:
    return CropDataset([clip], num_frames=5, frame_size=16, augment=True, **options)


def begins(item) -> float:
    """At which frame an item begins, by its red."""
    return float((item["video"][0, 0].mean() + 1) * 127.5 / 6)


def test_epochs_show_other_stretches_and_the_same_one_again(clip):
    data = crops(clip)
    items = [data[0, epoch] for epoch in range(12)]
    assert {tuple(item["video"].shape) for item in items} == {(3, 5, 16, 16)}
    starts = [begins(item) for item in items]
    assert max(starts) - min(starts) > 15
    assert (data[0, 3]["video"] == crops(clip)[0, 3]["video"]).all()
    assert items[0]["caption"] == "a ramp"
    # consecutive frames: the file's own rate
    steps = items[0]["video"][0].mean((1, 2)).diff() * 127.5 / 6
    assert abs(steps.mean() - 1) < 0.1


def test_what_does_not_fit_into_memory_gives_the_same_crops(clip):
    kept, decoded = crops(clip), crops(clip, cache_gb=0.0)
    for epoch in range(6):
        assert (kept[0, epoch]["video"] == decoded[0, epoch]["video"]).all()
    assert kept._clips["ramp.mp4"] is not None
    assert decoded._clips["ramp.mp4"] is None


def test_a_part_of_a_clip_gives_nothing_outside_of_it(clip):
    part = Clip(clip.id, clip.path, clip.captions, start=0.5, end=1.0)  # frames 10 to 19
    for data in (crops(part), crops(part, cache_gb=0.0)):
        starts = [begins(data[0, epoch]) for epoch in range(8)]
        assert min(starts) > 9.5
        assert max(starts) < 15.5


def test_without_augmentation_it_is_the_middle(clip):
    item = CropDataset([clip], num_frames=5, frame_size=16)[0]
    assert abs(begins(item) - 17.5) < 1
    _, green, blue = ((item["video"] + 1) * 127.5).mean((1, 2, 3)).tolist()
    assert abs(green - 63) < 4
    assert abs(blue - 95) < 4


def test_a_piece_is_cut_from_anywhere_at_any_size_and_mirrored():
    ramp = np.zeros((1, 48, 96, 3), np.uint8)
    ramp[..., 1], ramp[..., 2] = 5 * np.arange(48)[:, None], 2 * np.arange(96)[None, :]
    rng = np.random.default_rng(0)
    slopes, tops = [], []
    for _ in range(60):
        piece = cut(ramp, 16, 16, rng).astype(float)
        assert piece.shape == (1, 16, 16, 3)
        slopes.append(np.median(np.diff(piece[0, :, :, 2], axis=1)) / 2)  # pixels of the frame a pixel of the piece
        tops.append(piece[0, 0, 0, 1])
    sizes = np.abs(slopes)
    assert sizes.min() > 0.9
    assert 2.5 < sizes.max() <= ZOOM + 0.1
    assert 0.3 < np.mean(np.array(slopes) < 0) < 0.7
    assert max(tops) - min(tops) > 60
    small = cut(ramp[:, :12, :12], 16, 16, rng)  # only what is too small is enlarged
    assert small.shape == (1, 16, 16, 3)
