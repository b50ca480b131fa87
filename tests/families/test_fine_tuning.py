"""Pretrained models on prepared data, and with their text encoder out of memory: the losses of the clips, every time."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from contract import trained
from test_modelscope import FLAGS, modelscope

from text2video.cli.main import run
from text2video.config import RunConfig
from text2video.data.cache import Cache
from text2video.training.trainer import Trainer


def tokens(*extra: str) -> list[str]:
    return [*FLAGS, "--caption_dropout", "0.5", "--val_fraction", "0.3", *extra]


def losses(output: Path) -> np.ndarray:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return np.array([(row["step"], row.get("train/loss"), row.get("val/loss")) for row in rows], float)


@pytest.fixture(scope="module")
def prepared(made, few_clips, tmp_path_factory) -> Path:
    """The clips as a ModelScope model's own parts encode them, first frames too."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    line = ["data", "prepare", str(few_clips), str(out), "--model", str(made(modelscope)), "--save_image_latents"]
    assert run([*line, *FLAGS, "--fps", "24", "--device", "cpu"]) == 0
    return out


def test_the_losses_are_those_of_the_clips_without_the_encoders(made, few_clips, prepared, tmp_path):
    flags = tokens("--fps", "null", "--mixed_precision", "no")
    out = tmp_path / "out"
    line = ["data", "prepare", str(few_clips), str(out), "--model", str(made(modelscope)), *FLAGS, "--device", "cpu"]
    config = RunConfig.build({}, ["--model", str(made(modelscope)), "--data_dir", str(few_clips), *flags])
    assert config.data.fps is None
    (tmp_path / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    line[line.index(str(made(modelscope)))] = str(tmp_path / "run.yaml")
    assert run(line) == 0
    trained(made(modelscope), few_clips, tmp_path / "clips", *flags)
    trained(made(modelscope), few_clips, tmp_path / "tensors", *flags, "--load_tensors", str(out), "--data_dir", "null")
    np.testing.assert_allclose(losses(tmp_path / "tensors"), losses(tmp_path / "clips"), rtol=1e-5)
