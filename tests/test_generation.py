"""Prompts become files: names are safe, seeds count on, and each video says what made it."""

import json
import string

import numpy as np
import pytest
import torch

from text2video import video
from text2video.errors import UsageError
from text2video.families.opening import family_of, load
from text2video.generation import Settings, file_names, generate, save, to_uint8


@pytest.fixture(scope="module")
def model(tiny_model):
    return family_of(tiny_model), load(tiny_model, device="cpu")


def test_each_video_has_its_own_seed(model):
    family, pipe = model
    both = list(generate(family, pipe, ["a", "b"], Settings(seed=5, num_videos_per_prompt=2)))
    assert [(result.prompt, result.seed) for result in both] == [("a", 5), ("a", 6), ("b", 7), ("b", 8)]
    (alone,) = generate(family, pipe, ["b"], Settings(seed=8))
    assert np.array_equal(alone.frames, both[3].frames)


def test_files_say_what_made_them(model, tmp_path):
    family, pipe = model
    settings = Settings(seed=3, fps=5, num_inference_steps=2, guidance_scale=2.0, negative_prompt="dark")
    (result,) = generate(family, pipe, ['a "quoted" prompt, 狗'], settings, model="runs/x/final")
    paths = save(result, tmp_path / "a.mp4", save_gif=True, save_frames=True, visualize=True)
    assert {path.name for path in paths} == {"a.mp4", "a.json", "a.gif", "a_frames", "a_sheet.png"}
    assert len(list((tmp_path / "a_frames").glob("*.png"))) == 4
    beside = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert video.read_metadata(tmp_path / "a.mp4") == beside
    assert beside["prompt"] == 'a "quoted" prompt, 狗'
    assert (beside["seed"], beside["guidance_scale"], beside["model"]) == (3, 2.0, "runs/x/final")
    assert video.probe(tmp_path / "a.mp4").fps == pytest.approx(5)


def test_settings_say_what_was_used_and_the_model_stays_as_it_was(model):
    family, pipe = model
    before = pipe.scheduler
    (result,) = generate(family, pipe, ["a"], Settings(scheduler="euler", num_inference_steps=2))
    kept = result.metadata()
    assert (kept["num_frames"], kept["height"], kept["num_inference_steps"], kept["scheduler"]) == (4, 16, 2, "euler")
    assert kept["guidance_scale"] == pipe.config["guidance_scale"]
    assert pipe.scheduler is before
    (usual,) = generate(family, pipe, ["a"])
    assert (usual.settings.num_inference_steps, usual.settings.scheduler) == (3, "ddim")


def test_names_are_safe_and_distinct():
    hostile = ["a/../../etc/passwd", "..\\..\\x", "CON", "", "???", "a b", "A  B", "x" * 500, "狗" * 200, "a\x00b\n"]
    names = file_names(hostile)
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        assert len(name.encode()) < 240
        assert not set(name) & set('/\\:*?"<>|\x00\n')
        assert name.removesuffix(".mp4") not in ("", ".", "..", "con")
    assert file_names(["a red circle", "A red circle!"]) == ["a-red-circle.mp4", "a-red-circle-2.mp4"]
    assert file_names(["красный круг"]) == ["красный-круг.mp4"]
    assert set(file_names(["Red, Circle"])[0]) <= set(string.ascii_letters + "-.4")


def test_levels_round_trip():
    levels = torch.arange(256, dtype=torch.float32) / 127.5 - 1
    assert to_uint8(levels.view(1, 1, 16, 16).expand(3, 1, 16, 16))[0, :, :, 0].ravel().tolist() == list(range(256))


def test_no_prompts_is_said(model):
    with pytest.raises(UsageError, match="no prompts"):
        list(generate(*model, []))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"image": "a.png"}, "does not do image-to-video, only text-to-video: leave out --image"),
        ({"image": "a.png", "last_image": "b.png"}, "leave out --image and --last_image"),
        ({"video": "a.mp4"}, "does not do video-to-video"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance_scale": float("inf")}, "has to be a finite number"),
    ],
)
def test_what_a_model_cannot_do_is_said_before_it_begins(model, asked, words):
    with pytest.raises(UsageError, match=words):
        list(generate(*model, ["a"], Settings(**asked)))


def test_settings_that_cannot_be_written_leave_nothing(model, tmp_path, monkeypatch):
    (result,) = generate(*model, ["a"], Settings(num_inference_steps=1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(result, tmp_path / "a.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
