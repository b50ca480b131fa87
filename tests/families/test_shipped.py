"""The model that comes with the package: small, found by its name, and what it makes is what was asked."""

import json
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest

from text2video import video
from text2video.cli import main
from text2video.evaluation.metrics import MAIN
from text2video.evaluation.shapes import evaluate_shapes
from text2video.families.devices import choose_device
from text2video.families.opening import model_folder, open_model
from text2video.models.text import TextEncoder
from text2video.shipped import PLACE


def test_it_is_small_and_without_code():
    files = [file for file in PLACE.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 40e6
    assert {file.suffix for file in files} == {".json", ".md", ".safetensors"}
    assert "## Failures" in (PLACE / "README.md").read_text(encoding="utf-8")


def test_a_prompt_is_enough(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.run(["generate", "--prompt", "a red circle moves left", "--num_inference_steps", "2"]) == 0
    made = video.probe(tmp_path / "outputs" / "a-red-circle-moves-left.mp4")
    assert (made.num_frames, made.height, made.width) == (16, 64, 64)
    assert "moving-shapes" in video.read_metadata(tmp_path / "outputs" / "a-red-circle-moves-left.mp4")["model"]
    assert main.run(["models"]) == 0
    assert re.search(r"^moving-shapes +native", capsys.readouterr().out, re.MULTILINE)


def test_held_out_prompts_are_right_far_more_often_than_by_chance():
    result = evaluate_shapes(*open_model(PLACE, choose_device("cpu")), 12, batch_size=6)
    assert result.rates[MAIN].successes >= 8  # by chance none: one in thirty


def test_the_name_means_it_whatever_lies_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_folder("moving-shapes") == PLACE
    (tmp_path / "moving-shapes").mkdir()
    assert model_folder("moving-shapes") == PLACE
    shutil.copytree(PLACE, tmp_path / "mine")
    (tmp_path / "mine").rename(tmp_path / "moving-shapes" / "final")
    assert model_folder("moving-shapes").resolve() == (tmp_path / "moving-shapes" / "final").resolve()


@pytest.mark.parametrize("how", ["--init_from", "--model"])
def test_training_goes_on_from_it_by_its_name(how, tmp_path):
    short = "--clips 4 --max_steps 1 --batch_size 2 --val_samples 1 --num_workers 0 --sample_steps 0 --device cpu"
    run = ["train", "--shapes", how, "moving-shapes", *short.split(), "--output_dir", str(tmp_path / "run")]
    assert main.run([*run, "--no_wandb", "--no_tensorboard"]) == 0
    assert model_folder(tmp_path / "run") == tmp_path / "run" / "final"


def test_its_text_encoder_is_taken_over_by_its_name():
    encoder = TextEncoder.open("moving-shapes")
    assert encoder.trainable
    assert encoder(["a red circle moves left"]).hidden_states.shape[-1] == encoder.width == 128


@pytest.mark.slow
def test_ten_clips_teach_it_a_new_word(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    out = tmp_path / "new_word.json"
    monkeypatch.setattr(sys, "argv", ["new_word.py", "--place", str(tmp_path / "place"), "--out", str(out)])
    import_module("new_word").main()
    rates = json.loads(out.read_text(encoding="utf-8"))["rates"]
    moons, known, before = (rates[name] for name in ("moons", "known", "before"))
    assert moons["shape"]["rate"] >= 0.5
    assert known[MAIN]["rate"] >= before[MAIN]["rate"] - 0.1
