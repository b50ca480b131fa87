"""Runs with conditions, from the demo world and from files: trained, saved, asked, and refused where it cannot be."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from text2video import video
from text2video.cli.main import run as command
from text2video.config import RunConfig
from text2video.data.shapes import make_clip, render
from text2video.errors import DataError, UsageError
from text2video.families.opening import load, open_model
from text2video.generation import Settings, generate
from text2video.training.build import conditions_of_run
from text2video.training.data import open_data
from text2video.training.trainer import train

SHAPES = "{names: [square, circle, triangle]}"
ALL = (
    f"{{first_frame: {{}}, depth: {{dropout: 0.2}}, audio: {{args: {{hidden: 8}}}}, "
    f"shape: {{kind: class, args: {SHAPES}}}, place: {{kind: vector, args: {{size: 2}}, guidance_scale: 2}}}}"
)
TRANSFORMER = (
    *("--clips", "8", "--num_frames", "4", "--frame_size", "16", "--kind", "transformer", "--text_width", "32"),
    *("--model_args", "{num_layers: 1, num_attention_heads: 1, attention_head_dim: 16}", "--text_layers", "1"),
    *("--batch_size", "4", "--max_steps", "2", "--sample_steps", "0", "--num_workers", "0", "--val_samples", "2"),
    *("--num_inference_steps", "2", "--no_wandb", "--no_tensorboard", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory, tiny_flags):
    """A U-Net with five conditions, trained for two steps."""
    flags = [*tiny_flags, "--max_steps", "2", "--learning_rate", "1e-2", "--conditions", ALL]
    return train(RunConfig.build({}, [*flags, "--output_dir", str(tmp_path_factory.mktemp("conditioned") / "run")]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Values of the conditions, in files where they can be."""
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(render(make_clip(0)[0], 1, 16, 16)[0]).save(folder / "first.png")
    video.write(folder / "depth.mp4", np.full((4, 16, 16, 3), 90, np.uint8), 8)
    write_sound(folder / "sound.wav", np.sin(np.arange(8000) * 0.3))
    values = {"first_frame": folder / "first.png", "depth": folder / "depth.mp4", "audio": folder / "sound.wav"}
    return {**{name: str(path) for name, path in values.items()}, "shape": "circle", "place": "0.5,0.5"}


def write_sound(path, samples):
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 20_000).astype("<i2").tobytes())


def test_a_trained_model_follows_each_and_does_without(conditioned, files):
    family, pipe = open_model(conditioned, torch.device("cpu"), torch.float32)
    own = json.loads((conditioned / "unet" / "config.json").read_text(encoding="utf-8"))["conditions"]
    assert set(own) == {"first_frame", "depth", "audio", "shape", "place"}
    assert own["depth"] == {"kind": "depth", "dropout": 0.2, "guidance_scale": 1.0}

    def made(**settings):
        (one,) = generate(family, pipe, ["a red circle"], Settings(num_inference_steps=2, **settings))
        return one

    plain = made()
    for name, value in files.items():
        found = made(conditions={name: value})
        assert not np.array_equal(found.frames, plain.frames), name
        assert found.metadata()["conditions"] == {name: value}
    whole = made(conditions=files)
    assert np.array_equal(whole.frames, made(conditions=files).frames)
    stronger = made(conditions=files, condition_scales={"first_frame": 5.0, "place": 1.0})
    assert not np.array_equal(whole.frames, stronger.frames)
    with pytest.raises(UsageError, match=r"no condition pose.*depth, first_frame"):
        made(conditions={"pose": "x"})
    with pytest.raises(UsageError, match="no condition pose"):
        made(condition_scales={"pose": 2.0})
    with pytest.raises(UsageError, match="a scale for depth, which is not given"):
        made(condition_scales={"depth": 2.0})
    with pytest.raises(UsageError, match="depth is nan"):
        made(conditions=files, condition_scales={"depth": float("nan")})


def test_the_pipeline_takes_them_too(conditioned, files):
    pipe = load(conditioned)
    frames = pipe("a circle", num_inference_steps=2, conditions=files, output_type="pt").frames
    assert frames.shape == (1, 4, 3, 16, 16)


def test_a_transformer_is_trained_with_two(tmp_path, files):
    flags = [*TRANSFORMER, "--conditions", "[first_frame, audio]", "--output_dir", str(tmp_path / "run")]
    family, pipe = open_model(train(RunConfig.build({}, flags)), torch.device("cpu"), torch.float32)
    two = {name: files[name] for name in ("first_frame", "audio")}
    settings = [Settings(conditions=given) for given in ({}, two)]
    plain, found = (next(iter(generate(family, pipe, ["a circle"], one))).frames for one in settings)
    assert not np.array_equal(plain, found)


def test_resumed_equals_unbroken(tmp_path, tiny):
    flags = ("--conditions", ALL, "--save_steps", "1", "--lr_schedule", "constant", "--eval_steps", "9")
    unbroken = train(tiny("--max_steps", "2", *flags, output_dir=tmp_path / "unbroken"))
    train(tiny("--max_steps", "1", *flags, output_dir=tmp_path / "broken"))
    resumed = train(tiny("--max_steps", "2", *flags, output_dir=tmp_path / "broken"), resume=True)
    name = "unet/diffusion_pytorch_model.safetensors"
    before, after = load_file(unbroken / name), load_file(resumed / name)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_generate_takes_them_from_the_command_line(conditioned, files, tmp_path, capsys):
    flags = ["generate", "--model", str(conditioned), "--prompts", "a red circle", "--output_dir", str(tmp_path)]
    flags += ["--num_inference_steps", "2"]
    given = [f"{name}={value}" for name, value in files.items()]
    assert command([*flags, "--condition", *given[:3], "--condition", given[3], "--condition_scale", "depth=2"]) == 0
    settings = json.loads((tmp_path / "a-red-circle.json").read_text(encoding="utf-8"))
    assert settings["conditions"]["shape"] == "circle"
    assert settings["condition_scales"] == {"depth": 2.0}
    for wrong, sentence in (
        (["--condition", "depth"], "Write NAME=VALUE"),
        (["--condition", "depth=a", "depth=b"], "names depth twice"),
        (["--condition_scale", "depth=much"], "takes numbers"),
        (["--condition", "depth=nowhere.mp4"], "nowhere.mp4"),
        (["--condition", "pose=a"], "no condition pose"),
    ):
        assert command([*flags, *wrong]) in (1, 2)
        assert sentence in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def folder(tmp_path):
    """Four clips with a depth video, a sound and a class each, in folders and in a table."""
    root = tmp_path / "data"
    rows = []
    for part in ("videos", "captions", "depth", "audio", "shape"):
        (root / part).mkdir(parents=True)
    for index in range(4):
        scene, caption = make_clip(index)
        name = f"clip-{index}"
        video.write(root / "videos" / f"{name}.mp4", render(scene, 8, 32, 32), 8)
        video.write(root / "depth" / f"{name}.mp4", np.full((8, 32, 32, 3), 50 * index, np.uint8), 8)
        write_sound(root / "audio" / f"{name}.wav", np.sin(np.arange(16_000) * 0.1 * (index + 1)))
        (root / "shape" / f"{name}.txt").write_text(scene.things[0].shape, encoding="utf-8")
        (root / "captions" / f"{name}.txt").write_text(caption, encoding="utf-8")
        rows.append({"video": f"videos/{name}.mp4", "caption": caption, "shape": scene.things[0].shape})
        rows[-1] |= {"map": f"depth/{name}.mp4", "place": json.dumps([index, 0])}
    with (root / "clips.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return root


def opened(*flags):
    config = RunConfig.build({}, ["--num_frames", "4", "--frame_size", "16", "--val_fraction", "0", *map(str, flags)])
    return open_data(config.data, 0, conditions=conditions_of_run(config))


def test_folders_hold_a_file_for_each_clip(folder):
    given = f"{{first_frame: {{}}, depth: {{}}, audio: {{}}, shape: {{kind: class, args: {SHAPES}}}}}"
    data = opened("--data_dir", folder, "--conditions", given).train
    for index in range(4):
        item = data[index]
        told = item["conditions"]
        assert torch.equal(told["first_frame"][:, 3], item["video"][:, 0])
        number = int(item["id"][-5])
        assert abs(told["depth"].float().mean() - 50 * number) < 4
        assert told["audio"].shape == (4, 129)
        assert told["shape"] == ["square", "circle", "triangle"].index(make_clip(number)[0].things[0].shape) + 1


def test_columns_hold_files_and_values(folder):
    look = f"look: {{kind: class, source: shape, args: {SHAPES}}}"
    given = f"{{depth: {{source: map}}, place: {{kind: vector, args: {{size: 2}}}}, {look}}}"
    (folder / "shape").rename(folder / "other")
    data = opened("--dataset_file", folder / "clips.csv", "--conditions", given).train
    for index in range(4):
        item = data[index]
        number = int(item["id"][-5])
        assert abs(item["conditions"]["depth"].float().mean() - 50 * number) < 4
        assert item["conditions"]["place"].tolist() == [number, 0, 1]


def test_a_clip_that_lacks_one_is_left_out_and_named(folder):
    (folder / "depth" / "clip-2.mp4").unlink()
    found = opened("--data_dir", folder, "--conditions", "[depth]")
    assert [data_id[-5] for data_id in found.train.ids] == ["0", "1", "3"]
    assert any("clip-2.mp4: it lacks the condition depth: nothing in depth" in note for note in found.notes)


def test_one_that_cannot_be_read_leaves_its_clip_out_before_training(folder):
    cut = folder / "depth" / "clip-0.mp4"
    cut.write_bytes(cut.read_bytes()[:500])
    (folder / "audio" / "clip-1.wav").write_bytes(b"no sound")
    (folder / "shape" / "clip-2.txt").write_text("blob", encoding="utf-8")
    seen = []
    given = f"{{depth: {{}}, audio: {{}}, shape: {{kind: class, args: {SHAPES}}}}}"
    config = RunConfig.build({}, ["--num_frames", "4", "--frame_size", "16", "--data_dir", str(folder)])
    told = conditions_of_run(RunConfig.build({}, ["--conditions", given]))
    data = open_data(config.data, 0, on_checked=lambda done, of: seen.append((done, of)), conditions=told)
    assert data.train.ids == ["videos/clip-3.mp4"]
    notes = "\n".join(data.notes)
    assert "clip-0.mp4: its condition depth cannot be used: " in notes
    assert "clip-1.mp4: its condition audio cannot be used: " in notes
    assert "clip-2.mp4: its condition shape cannot be used: There is no class 'blob'" in notes
    assert seen.count((4, 4)) == 3  # the clips, the depth videos, the sounds


def test_silent_clips_are_said_to_be_silent(folder):
    (folder / "audio").rename(folder / "elsewhere")
    with pytest.raises(DataError, match=r"its condition audio cannot be used: .*has no sound"):
        opened("--data_dir", folder, "--conditions", "[audio]")


def test_what_is_nowhere_is_said(folder):
    with pytest.raises(DataError, match="no folder 'mask'"):
        opened("--data_dir", folder, "--conditions", "[mask]")
    for name in ("clip-1.png", "clip-1.gif"):
        (folder / "depth" / name).write_bytes(b"")
    (folder / "depth" / "clip-1.mp4").unlink()
    with pytest.raises(DataError, match=r"several files for videos/clip-1\.mp4"):
        opened("--data_dir", folder, "--conditions", "[depth]")
    with pytest.raises(DataError, match=r"does not tell 'weather'.*first_frame"):
        opened("--shapes", "--clips", "4", "--conditions", "{weather: {kind: mask}}")
    with pytest.raises(UsageError, match=r"leave out data\.augment"):
        opened("--data_dir", folder, "--augment", "--conditions", "[depth]")
    for kind in ("vae", "tokenizer", "autoregressive", "vgan"):
        with pytest.raises(UsageError, match=f"leave out model.kind {kind}"):
            opened("--data_dir", folder, "--kind", kind, "--conditions", "[depth]")


def test_the_demo_world_tells_what_is_true():
    given = "[first_frame, depth, mask, audio]"
    data = opened("--shapes", "--clips", "12", "--frame_size", "32", "--num_frames", "16", "--conditions", given).train
    for index in range(12):
        item = data[index]
        told, levels = item["conditions"], (item["video"] + 1) * 127.5
        assert (told["first_frame"][:, 5] - levels[:, 0]).abs().max() < 1
        inside = told["depth"][0] > 200
        assert inside.any((1, 2)).all()
        bright = levels.amax(0)  # things are brighter than the background
        assert bright[inside].float().mean() > bright[~inside].float().mean() + 60
        assert (told["mask"][0] > 0)[inside].float().mean() > 0.99
