"""Runs over clips of several shapes: every step has one shape, and a broken run goes on with the clips not yet seen."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from text2video import video
from text2video.config import RunConfig
from text2video.data.dataset import TextVideoDataset
from text2video.diffusion.objectives import TextToVideoDiffusion
from text2video.errors import DataError, TrainingError, UsageError
from text2video.families.opening import load
from text2video.training import trainer
from text2video.training.data import open_data, sampler_of
from text2video.training.trainer import train

WIDE, SQUARE, SHORT = "4x16x32", "4x16x16", "2x16x16"
BUCKETS = ("--buckets", WIDE, SQUARE)


class Recorder(TextVideoDataset):
    """Notes each clip that is read into the file RECORD, and kills the process before reading number KILL_AT."""

    def __getitem__(self, key):
        if isinstance(key, tuple) and "RECORD" in os.environ:
            path = Path(os.environ["RECORD"])
            with path.open("a") as file:
                file.write(f"{key[1]} {self.clips[key[0]].id}\n")
            if len(path.read_text().splitlines()) == int(os.environ.get("KILL_AT", "-1")):
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(key)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Seven wide clips and five square ones, and a picture."""
    root = tmp_path_factory.mktemp("several")
    (root / "videos").mkdir()
    noise = np.random.default_rng(0)
    captions = {"still.png": "a picture"}
    for number in range(12):
        size = (16, 32) if number < 7 else (20, 20)
        frames = noise.integers(0, 256, (8, *size, 3), np.uint8)
        captions[f"{number:02d}.mp4"] = f"clip {number}"
        video.write(root / f"videos/{number:02d}.mp4", frames, 8)
    Image.fromarray(frames[0]).save(root / "videos/still.png")
    (root / "captions.json").write_text(json.dumps(captions))
    return root


@pytest.fixture
def several(folder, tiny, tmp_path):
    """A function that makes the configuration of a tiny run over the folder, in two buckets."""

    def make(*flags: str, output_dir: Path = tmp_path / "run") -> RunConfig:
        values = tiny("--val_fraction", "0", output_dir=output_dir).model_dump(mode="json")
        values["data"] |= {"shapes": None, "data_dir": str(folder), "dataset_class": "test_buckets_in_runs:Recorder"}
        return RunConfig.build(values, [*BUCKETS, "--model_args", "{dropout: 0.1}", *flags])

    return make


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


def assert_same_weights(run: Path, other: Path) -> None:
    own, wanted = (load_file(r / "final/unet/diffusion_pytorch_model.safetensors") for r in (run, other))
    assert all(torch.equal(own[name], value) for name, value in wanted.items())


RUN = """
import sys
from text2video.config import RunConfig
from text2video.training.trainer import train
train(RunConfig.load(sys.argv[1]), resume=True)
"""


def test_killed_in_the_middle_of_an_epoch_it_goes_on_with_the_clips_not_yet_seen(several, tmp_path, monkeypatch):
    monkeypatch.setenv("RECORD", str(tmp_path / "unbroken.txt"))
    unbroken, broken = several(output_dir=tmp_path / "unbroken"), several(output_dir=tmp_path / "broken")
    train(unbroken)
    order = (tmp_path / "unbroken.txt").read_text().splitlines()
    assert len(order) == 6 * 4
    assert len(set(order)) == len(order)
    # killed while step 4 is read; the checkpoint before it stands after step 2, an epoch has three steps
    (tmp_path / "broken.yaml").write_text(broken.to_yaml())
    killed = {"RECORD": str(tmp_path / "first.txt"), "KILL_AT": "14", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", RUN, tmp_path / "broken.yaml"], env=os.environ | killed)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "first.txt").read_text().splitlines() == order[:14]
    monkeypatch.setenv("RECORD", str(tmp_path / "second.txt"))
    train(broken, resume=True)
    assert (tmp_path / "second.txt").read_text().splitlines() == order[2 * 4 :]
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    assert_same_weights(tmp_path / "broken", tmp_path / "unbroken")


def test_every_step_is_one_bucket_however_it_is_dealt_out(several, tmp_path):
    for last_batch in ("wait", "smaller"):
        whole, parts = tmp_path / f"whole-{last_batch}", tmp_path / f"parts-{last_batch}"
        flags = ("--last_batch", last_batch, "--model_args", "{dropout: 0}", "--max_steps", "5")
        train(several(*flags, output_dir=whole))
        train(several(*flags, "--batch_size", "2", "--gradient_accumulation_steps", "2", output_dir=parts))
        assert losses(parts) == pytest.approx(losses(whole), abs=1e-5)


def test_the_largest_bucket_is_tried_first_and_changes_nothing(several, tmp_path, monkeypatch):
    train(several("--max_steps", "3", output_dir=tmp_path / "tried"))
    assert f"the largest bucket, {WIDE}" in (tmp_path / "tried/training.log").read_text()
    monkeypatch.setattr(trainer, "rehearse", lambda run: None)
    train(several("--max_steps", "3", output_dir=tmp_path / "not"))
    assert losses(tmp_path / "tried") == losses(tmp_path / "not")
    assert_same_weights(tmp_path / "tried", tmp_path / "not")


class Cramped(TextToVideoDiffusion):
    """Has memory for square clips only."""

    def loss(self, predict, batch, player="denoiser"):
        if batch.x_0.shape[-1] > 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.")
        return super().loss(predict, batch, player)


def test_what_does_not_fit_is_said_before_the_first_step(several, tmp_path):
    with pytest.raises(TrainingError, match=r"largest bucket, 4x16x32 .* --batch_size 4"):
        train(several("--objective", "test_buckets_in_runs:Cramped"))
    assert not losses(tmp_path / "run")


def test_another_batch_on_resume_is_said(several, tmp_path):
    train(several("--max_steps", "2"))
    train(several("--max_steps", "3", "--batch_size", "2", "--gradient_accumulation_steps", "2"), resume=True)
    log = (tmp_path / "run/training.log").read_text()
    assert "A step had" not in log
    train(several("--max_steps", "4", "--batch_size", "2"), resume=True)
    log = (tmp_path / "run/training.log").read_text()
    assert "A step had 4 clips up to step 3 and has 2 now" in log


def test_the_model_makes_what_most_clips_are_and_validation_has_buckets(several, tmp_path):
    final = train(several("--val_fraction", "0.3", "--max_steps", "1", "--sample_steps", "1", "--num_samples", "1"))
    pipe = load(final, device="cpu")
    assert [pipe.config[name] for name in ("num_frames", "height", "width")] == [4, 16, 32]
    (preview,) = (tmp_path / "run/samples/000001").glob("*.mp4")
    assert video.read(preview).frames.shape == (4, 16, 32, 3)
    assert "validation loss" in (tmp_path / "run/training.log").read_text()


def test_clips_lie_in_their_buckets(several):
    config = several("--buckets", "auto", "--frame_size", "16")
    data = open_data(config.data, 0)
    shapes = {clip.id: data.train.shape(index) for index, clip in enumerate(data.train.clips)}
    assert all(data.train[index]["video"].shape[1:] == shape for index, shape in enumerate(shapes.values()))
    assert len(set(shapes.values())) == 3
    assert shapes["videos/still.png"][0] == 1
    notes = sampler_of(config, data.train, math.prod).notes()
    assert len(notes) == 3
    assert any("a step has some of them twice" in note for note in notes if note.startswith("bucket 1x"))


def test_what_the_model_cannot_take_is_said_before_anything_is_decoded(several, folder, monkeypatch):
    monkeypatch.setattr("text2video.data.checks.examine_all", lambda *args, **kwargs: pytest.fail("decoded"))
    with pytest.raises(UsageError, match=r"width 18 is no multiple of 4 \(nearest: 16 or 20\)"):
        train(several("--buckets", "4x16x18", "4x16x16"))


def test_pictures_are_left_out_where_the_model_cannot_take_one_frame(several, tmp_path):
    train(several("--max_steps", "1", "--downsample_time", "true"))
    assert (
        "still.png: a picture is a clip of one frame, and for this model 1 is no multiple of 2"
        in (tmp_path / "run/training.log").read_text()
    )


def test_a_clip_that_cannot_be_read_is_replaced_from_its_own_bucket(folder):
    from text2video.data.clips import Clip

    names = ["00.mp4", "gone.mp4", "07.mp4", "01.mp4"]
    clips = [Clip(name, folder / "videos" / name, ("x",)) for name in names]
    wide, square = (4, 16, 32), (4, 16, 16)
    data = TextVideoDataset(clips, buckets=[wide, square, square, wide])
    item = data[1]
    assert (item["id"], item["video"].shape[1:]) == ("07.mp4", square)
    with pytest.raises(DataError, match="No clip of 4 frames of 32x16 pixels"):
        TextVideoDataset(clips[1:3], buckets=[wide, square])[0]
    with pytest.raises(DataError, match="1 buckets are given for 4 clips"):
        TextVideoDataset(clips, buckets=[wide])
