"""The scripts that wait for a GPU run here, on toys, and what a script takes from another is there."""

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from ruamel.yaml import YAML

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TREES = {file.stem: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(BENCHMARKS.glob("*.py"))}


def test_both_sides_of_a_fine_tuning_are_measured(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    gpu = import_module("gpu")
    monkeypatch.setattr(gpu, "DEVICE", gpu.torch.device("cpu"))
    for side in ("ours", "diffusers"):
        found = gpu.measure("modelscope-1.7b", side, tmp_path, tiny=True, steps=1)
        assert found["seconds_a_step"] > 0
        assert found["peak_process_gb"] > 0.1
        assert "s a step, peak" in gpu.table({f"modelscope-1.7b {side} 0": found})[0]


@pytest.mark.slow
def test_a_model_of_images_is_measured_against_one_from_nothing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    inflation, out = import_module("inflation"), tmp_path / "inflation.json"
    line = ["inflation.py", "--steps", "4", "--image_steps", "1", "--seeds", "3", "--pictures", "12", "--prompts", "2"]
    line += ["--control", "--place", str(tmp_path / "runs"), "--out", str(out)]
    tiny = ["--model_channels=16", "--batch_size=2", "--val_samples=2", "--num_workers=0", "--num_inference_steps=1"]
    monkeypatch.setattr(sys, "argv", [*line, *tiny, "--text_width=32", "--frame_size=16", "--device=cpu"])
    recipe = YAML(typ="safe").load(inflation.VIDEOS)
    recipe["stages"] = [{"num_frames": 4, "batch_size": 2, "max_steps": 1}, {"max_steps": 2}]
    monkeypatch.setattr(inflation, "VIDEOS", tmp_path / "videos.yaml")
    YAML(typ="safe").dump(recipe, inflation.VIDEOS)
    for _ in range(2):  # the second time everything is there
        inflation.main()
        found = json.loads(out.read_text(encoding="utf-8"))
        assert {name: run["steps"] for name, run in found["seeds"]["3"].items()} == {
            "scratch": 4,
            "inflated": 4,
            "staged": 4,
        }
        assert not found["reached"]  # not in half of the steps
        monkeypatch.setattr("once.train", None)


@pytest.mark.slow
def test_stages_are_measured_against_the_final_size_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    stages, out = import_module("stages"), tmp_path / "stages.json"
    line = ["stages.py", "--steps", "3", "--seeds", "3", "--prompts", "2", "--place", str(tmp_path / "runs")]
    tiny = ["--model_channels=16", "--val_samples=2", "--num_workers=0", "--num_inference_steps=1", "--device=cpu"]
    tiny += ["--stages", "{frame_size: 8, num_frames: 8, max_steps: 1}", "{max_steps: 2, frame_size: 16}"]
    monkeypatch.setattr(sys, "argv", [*line, "--out", str(out), "--text_width=32", "--batch_size=2", *tiny])
    for _ in range(2):  # the second time everything is there
        stages.main()
        found = json.loads(out.read_text(encoding="utf-8"))["seeds"]["3"]
        assert found.keys() == {"whole", "staged"}
        assert all(0 < run["minutes"] < 5 for run in found.values())
        monkeypatch.setattr("once.train", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("gans", {"VGAN", "MoCoGAN", "DVD-GAN", "diffusion"}),
        ("denoisers", {f"{net} over {what}" for net in ("U-Net", "transformer") for what in ("pixels", "latents")}),
    ],
)
def test_recipes_are_measured_after_the_same_minutes(script, names, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark, out = import_module(script), tmp_path / f"{script}.json"
    line = [f"{script}.py", "--minutes", "0.001", "--trial", "2", "--prompts", "2", "--place", str(tmp_path / "runs")]
    line += ["--codec_steps", "2"] if script == "denoisers" else []
    tiny = ["--batch_size=2", "--val_samples=2", "--num_workers=0", "--text_width=32", "--frame_size=16"]
    monkeypatch.setattr(sys, "argv", [*line, "--out", str(out), *tiny, "--sample_steps=0", "--device=cpu"])
    for _ in range(2):  # the second time everything is there
        benchmark.main()
        found = json.loads(out.read_text(encoding="utf-8"))["models"]
        assert found.keys() == names
        assert all(row["steps"] >= 1 and row["minutes"] > 0 for row in found.values())
        monkeypatch.setattr(import_module("same_minutes"), "train", None)


@pytest.mark.slow
def test_the_whole_script_stops_and_goes_on(tmp_path):
    out = tmp_path / "gpu.json"
    line = [sys.executable, str(BENCHMARKS / "gpu.py"), "--tiny", "--steps", "1", "--rounds", "1", "--out", str(out)]
    line += ["--place", str(tmp_path)]
    ended = subprocess.run([*line, "--minutes", "0"], capture_output=True, text=True, check=True)
    assert "the same command goes on" in ended.stdout
    assert not out.exists()
    for _ in range(2):
        ended = subprocess.run(line, capture_output=True, text=True, check=True)
    figures = json.loads(out.read_text(encoding="utf-8"))["figures"]
    assert not [values for values in figures.values() if "failed" in values]
    assert all(figures[f"{name} recipe 0"]["of_best_product"] > 0 for name in ("demo", "transformer-1B"))
    assert "written" not in ended.stdout  # the second time everything was there


def defined(tree: ast.Module) -> set[str]:
    """Names at the top of a module."""
    found = {node.id for top in tree.body for node in ast.walk(top) if isinstance(node, ast.Name)}
    found |= {top.name for top in tree.body if isinstance(top, ast.FunctionDef | ast.ClassDef)}
    imports = [top for top in tree.body if isinstance(top, ast.Import | ast.ImportFrom)]
    return found | {each.asname or each.name for top in imports for each in top.names}


@pytest.mark.parametrize("name", TREES)
def test_what_a_benchmark_takes_from_another_is_there(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom) and node.module in TREES:
            assert {each.name for each in node.names} <= defined(TREES[node.module]), node.module
