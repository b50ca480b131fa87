import json
import pickle

import numpy as np
import pytest
import torch

from text2video import video
from text2video.data import shapes
from text2video.data.conditions import Wanted
from text2video.data.shapes import PALETTE, ShapesDataset, make_clip, render
from text2video.errors import DataError, UsageError


def test_written_clips_are_the_clips(tmp_path):
    seen = []
    folder = shapes.write(tmp_path / "a" / "demo", 6, seed=4, num_frames=5, size=32, progress=lambda *p: seen.append(p))
    assert seen == [(i, 6) for i in range(1, 7)]
    assert sorted(p.name for p in folder.iterdir()) == ["captions", "scenes.jsonl", "videos"]
    assert [p.name for p in folder.parent.iterdir()] == ["demo"]
    rows = [json.loads(line) for line in (folder / "scenes.jsonl").read_text(encoding="utf-8").splitlines()]
    for index, row in enumerate(rows):
        scene, caption = make_clip(index, 4)
        assert row["id"] == shapes.clip_id(index)
        assert row["things"][0]["colour"] == scene.things[0].colour
        assert (folder / "captions" / f"{row['id']}.txt").read_text(encoding="utf-8") == caption + "\n"
        frames, times = video.read(folder / "videos" / f"{row['id']}.mp4")
        assert np.abs(frames.astype(int) - render(scene, 5, 32, 32)).mean() < 6
        assert times == pytest.approx(np.arange(5) / 8, abs=1e-3)


def test_an_empty_folder_may_be_named_but_a_full_one_is_left_alone(tmp_path):
    shapes.write(tmp_path / "new", 1, num_frames=2, size=16)
    (tmp_path / "empty").mkdir()
    shapes.write(tmp_path / "empty", 1, num_frames=2, size=16)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="already holds something"):
        shapes.write(tmp_path / "full", 1, num_frames=2, size=16)
    with pytest.raises(DataError, match="already holds something"):
        shapes.write(tmp_path / "full" / "notes.txt", 1, num_frames=2, size=16)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["notes.txt"]
    with pytest.raises(DataError, match="0 clips"):
        shapes.write(tmp_path / "none", 0)


def test_nothing_half_written_stays(tmp_path):
    def interrupt(done, clips):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shapes.write(tmp_path / "demo", 4, num_frames=2, size=16, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_dataset_items():
    dataset = ShapesDataset(5, seed=4, num_frames=6, height=24, width=32)
    assert len(dataset) == len(dataset.ids) == len(set(dataset.ids)) == 5
    item = dataset[3]
    assert item["id"] == dataset.ids[3]
    assert item["conditions"] == {}
    assert item["video"].shape == (3, 6, 24, 32)
    assert item["video"].dtype == torch.float32
    assert item["video"].is_contiguous()
    scene, caption = make_clip(3, 4)
    assert item["caption"] == dataset.caption(3) == caption
    assert dataset.shape(3) == (6, 24, 32)
    back = ((item["video"] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
    assert np.array_equal(back, render(scene, 6, 24, 32))
    assert -1 <= item["video"].min() < item["video"].max() <= 1
    with pytest.raises(IndexError):
        dataset[5]


def test_the_wording_changes_with_the_epoch_and_the_video_does_not():
    dataset = pickle.loads(pickle.dumps(ShapesDataset(3, num_frames=2, height=16, width=16)))
    items = [dataset[1, epoch] for epoch in range(20)]
    assert len({item["caption"] for item in items}) > 10
    assert all(torch.equal(item["video"], items[0]["video"]) for item in items)
    assert dataset[1, 7]["caption"] == items[7]["caption"]


def test_with_a_frame_rate_each_epoch_shows_a_window_of_the_clip():
    whole = ShapesDataset(3, num_frames=16, height=16, width=16)[1]["video"]
    windows = ShapesDataset(3, num_frames=4, height=16, width=16, fps=8)
    begins = set()
    for epoch in range(12):
        shown = windows[1, epoch]["video"]
        assert torch.equal(shown, windows[1, epoch]["video"])
        near = [(whole[:, begin : begin + 4] - shown).abs().max() for begin in range(13)]
        begins.add(int(torch.stack(near).argmin()))
        assert min(near) < 0.6  # of 2: a window lies up to half a frame from whole frames
    assert len(begins) > 4
    assert torch.equal(ShapesDataset(3, num_frames=16, height=16, width=16, fps=8)[1, 5]["video"], whole)


def test_conditions_are_of_the_window_that_is_shown():
    told = {name: Wanted(lambda value, view: value, name) for name in ("mask", "audio")}
    for epoch in range(6):
        shown = ShapesDataset(3, num_frames=4, height=32, width=32, fps=8, conditions=told)[1, epoch]
        masks, sound = shown["conditions"]["mask"], shown["conditions"]["audio"]
        colour = torch.tensor(PALETTE[make_clip(1)[0].things[0].colour]) / 127.5 - 1
        own = torch.from_numpy(masks > 0).expand(3, *masks.shape)
        assert (shown["video"][own].reshape(3, -1).mean(1) - colour).abs().max() < 0.1
        assert 0.5 <= sound.seconds <= 2


def test_clips_of_the_full_world_are_written_and_drawn_alike(tmp_path):
    folder = shapes.write(tmp_path / "demo", 3, seed=4, num_frames=4, size=32, max_objects=3, world="full")
    dataset = ShapesDataset(3, seed=4, num_frames=4, height=32, width=32, max_objects=3, world="full")
    rows = [json.loads(line) for line in (folder / "scenes.jsonl").read_text(encoding="utf-8").splitlines()]
    for index, row in enumerate(rows):
        scene, caption = make_clip(index, 4, max_objects=3, world="full")
        item = dataset[index]
        assert row["caption"] == item["caption"] == caption
        assert row["shadows"] is True
        assert [thing.get("becomes") for thing in row["things"]] == [thing.becomes for thing in scene.things]
        frames = render(scene, 4, 32, 32)
        assert torch.allclose(item["video"], torch.from_numpy(frames).permute(3, 0, 1, 2) / 127.5 - 1, atol=1e-6)
        assert np.abs(video.read(folder / "videos" / f"{row['id']}.mp4").frames.astype(int) - frames).mean() < 10


def test_the_small_world_has_no_more_in_its_file_than_it_had(tmp_path):
    folder = shapes.write(tmp_path / "demo", 1, num_frames=2, size=16)
    row = json.loads((folder / "scenes.jsonl").read_text(encoding="utf-8"))
    assert set(row) == {"id", "caption", "things", "background"}
    assert set(row["things"][0]) == {"colour", "shape", "motion", "size", "speed", "x", "y"}
    assert set(row["background"]) == {"kind", "level", "angle", "phase"}


@pytest.mark.parametrize(
    "make", [lambda folder: shapes.write(folder, 2, max_objects=3), lambda _: ShapesDataset(2, max_objects=3)]
)
def test_three_things_are_for_the_full_world(make, tmp_path):
    with pytest.raises(UsageError, match=r"max_objects is 3.*full holds up to 3"):
        make(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_held_out_wordings_show_the_same_videos():
    told = [ShapesDataset(4, num_frames=2, height=16, width=16, world="full", wording=w) for w in ("train", "heldout")]
    for index in range(4):
        first, second = (dataset[index] for dataset in told)
        assert torch.equal(first["video"], second["video"])
        assert first["caption"] != second["caption"]
