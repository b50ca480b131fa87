"""The command line in this process, and one tiny model trained through it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from text2video.cli.main import run

TINY = """
output_dir: run
data: {data_dir: clips, num_frames: 8, frame_size: 16, num_workers: 0, val_fraction: 0.2}
model:
  {model_channels: 16, channel_mult: [1, 2], num_res_blocks: 1, attention: [none, time], downsample_time: [false]}
text: {text_width: 32, text_layers: 1}
diffusion: {num_timesteps: 10}
optim: {warmup_steps: 1, ema_decay: 0.5}
train: {max_steps: 3, batch_size: 2, val_samples: 2, device: cpu}
preview: {sample_steps: 0, num_inference_steps: 2, scheduler: ddim}
tracking: {no_wandb: true, no_tensorboard: true}
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Result]


@contextmanager
def one_thread() -> Iterator[None]:
    """Tiny models wait for their threads longer than they compute, the more so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `text2video TOKENS...` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*tokens: object) -> Result:
        capsys.readouterr()
        with one_thread():
            code = run([str(token) for token in tokens])
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tiny.yaml`, six clips of the demo world in `clips`, and the finished run in `run`."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.chdir(folder)
        assert run(["data", "shapes", "clips", "--clips", "6", "--size", "16", "--num-frames", "8"]) == 0
        assert run(["train", "tiny.yaml"]) == 0
    return folder
