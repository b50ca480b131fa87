"""Clips that are seen several times an epoch: how often, and each time another view."""

import json
from collections import Counter

import numpy as np
import pytest

from text2video import video
from text2video.cli import main
from text2video.config import RunConfig
from text2video.data.repeats import Repeated, times_of
from text2video.errors import DataError, UsageError
from text2video.preparing.prepare import prepare
from text2video.training.data import open_data, sampler_of
from text2video.training.trainer import train


class Recorded:
    """Items that say which clip they are of, and in which epoch; clip 1 is wider."""

    def shape(self, index):
        return 4, 16, 32 if index == 1 else 16

    def __getitem__(self, key):
        return key


def test_the_first_pattern_that_fits_counts():
    ids = ["videos/new-1.mp4", "videos/new-2.mp4", "videos/old.mp4"]
    assert times_of(ids, {}) == [1, 1, 1]
    assert times_of(ids, {"*new-2*": 5, "videos/new-*": 3}) == [3, 5, 1]
    with pytest.raises(DataError, match=r"'New-\*', which fits none of the 3 clips.*such as 'videos/new-1.mp4'"):
        times_of(ids, {"New-*": 3})


def test_each_time_is_another_epoch_of_the_clip():
    data = Repeated(Recorded(), [1, 3, 2])
    assert len(data) == 6
    assert Counter(data.shape(index)[2] for index in range(6)) == {16: 3, 32: 3}
    seen = [data[index, epoch] for epoch in range(4) for index in range(len(data))]
    assert len(set(seen)) == len(seen)  # no view twice
    epochs = {clip: sorted(epoch for each, epoch in seen if each == clip) for clip in range(3)}
    assert epochs == {0: [*range(4)], 1: [*range(12)], 2: [*range(8)]}  # and none left out
    assert data[-1] == data[5]
    with pytest.raises(IndexError):
        data[6]


@pytest.fixture
def folder(tmp_path):
    """Eight clips, of which two are new."""
    root = tmp_path / "data"
    (root / "videos").mkdir(parents=True)
    names = [f"old-{n}" for n in range(6)] + ["new-0", "new-1"]
    noise = np.random.default_rng(0)
    for name in names:
        video.write(root / "videos" / f"{name}.mp4", noise.integers(0, 256, (8, 16, 16, 3), np.uint8), 8)
    (root / "captions.json").write_text(json.dumps({f"{name}.mp4": f"clip {name}" for name in names}))
    return root


def seen_in_an_epoch(config: RunConfig) -> Counter:
    data = open_data(config.data, config.seed)
    assert any("12 in an epoch with repeats" in note for note in data.notes)
    sampler = sampler_of(config, data.train, lambda shape: 1)
    stream = iter(sampler)
    return Counter(data.train[key]["id"] for _ in range(3) for key in next(stream))


def test_a_run_sees_them_so_often_from_clips_and_prepared(folder, tiny, tmp_path):
    values = tiny().model_dump(mode="json")
    values["data"] |= {"shapes": None, "data_dir": str(folder), "val_fraction": 0.0, "repeats": {"*new-*": 3}}
    config = RunConfig.model_validate(values)
    wanted = {f"videos/old-{n}.mp4": 1 for n in range(6)} | {"videos/new-0.mp4": 3, "videos/new-1.mp4": 3}
    assert seen_in_an_epoch(config) == wanted
    prepare(config, tmp_path / "prepared")
    values["data"] |= {"data_dir": None, "load_tensors": str(tmp_path / "prepared")}
    assert seen_in_an_epoch(RunConfig.model_validate(values)) == wanted
    assert (train(config) / "model_index.json").is_file()


def test_a_plan_counts_them(folder, capsys):
    line = ["plan", "--data_dir", str(folder), "--repeats", "{'*new-*': 3}", "--num_epochs", "8", "--batch_size", "4"]
    small = ["--model_channels", "16", "--channel_mult", "1", "1", "1", "--val_fraction", "0"]
    assert main.run([*line, *small, "--card", "RTX 4090"]) == 0
    assert "24 steps, 12 clips" in capsys.readouterr().out


def test_drawn_clips_have_no_names(tiny):
    with pytest.raises(UsageError, match=r"--repeats is for clips in files"):
        train(tiny("--repeats", "{'*': 2}"))
