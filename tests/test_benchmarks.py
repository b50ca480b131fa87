"""The scripts that wait for a GPU run here, on toys."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


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
    assert figures["demo recipe 0"]["mfu"] > 0
    assert "written" not in ended.stdout  # the second time everything was there
