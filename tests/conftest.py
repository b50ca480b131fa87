"""Shared by all tests: tiny runs that finish in seconds."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from chat_server import ChatServer, serving

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks the network, unless it is marked so
os.environ["TEXT2VIDEO_CACHE"] = tempfile.mkdtemp(prefix="text2video-tests-")  # the user's own stays as it is

CLIPS = Path(os.environ.get("TEXT2VIDEO_CLIPS", Path(__file__).parents[2] / "shared" / "clips"))

TINY = [
    *("--clips", "12", "--num_frames", "4", "--frame_size", "16", "--patch_size", "1", "2", "2"),
    *("--model_channels", "16", "--channel_mult", "1", "2", "--attention", "time", "full"),
    *("--downsample_time", "false", "--num_res_blocks", "1", "--head_dim", "16", "--text_width", "32"),
    *("--text_layers", "1", "--batch_size", "4", "--val_fraction", "0.25", "--val_samples", "4"),
    *("--learning_rate", "1e-3", "--max_steps", "6", "--save_steps", "2", "--eval_steps", "3"),
    *("--sample_steps", "0", "--num_inference_steps", "3", "--scheduler", "ddim", "--num_workers", "0"),
    *("--no_wandb", "--no_tensorboard", "--ema_decay", "0.9", "--device", "cpu"),
]


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """The folder of real clips; tests that need it are skipped where it is missing."""
    if not (CLIPS / "manifest.csv").is_file():
        pytest.skip("the folder of real clips is not here")
    return CLIPS


@pytest.fixture(scope="session")
def tiny_flags() -> list[str]:
    """The command-line tokens of a tiny run, without its output_dir."""
    return TINY


@pytest.fixture
def tiny(tmp_path):
    """A function that makes the configuration of a tiny run: `tiny("--seed", "1", output_dir=...)`."""
    from text2video.config import RunConfig

    def make(*flags: str, output_dir: Path = tmp_path / "run"):
        return RunConfig.build({}, [*TINY, "--output_dir", str(output_dir), *flags])

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The folder of a model trained for a few steps."""
    from text2video.config import RunConfig
    from text2video.training.trainer import train

    return train(RunConfig.build({}, [*TINY, "--output_dir", str(tmp_path_factory.mktemp("tiny") / "run")]))


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    """A server that answers chats, and fails as it is told."""
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def tiny_captioners(tmp_path_factory) -> Path:
    """A folder with `llava`, `blip` and `llama`: tiny random models."""
    from tiny_captioners import write_blip, write_language_model, write_llava

    folder = tmp_path_factory.mktemp("captioners")
    torch.manual_seed(0)
    write_llava(folder / "llava")
    write_blip(folder / "blip")
    write_language_model(folder / "llama")
    return folder


@pytest.fixture(autouse=True)
def _threads():
    """A test that changes torch's seed or threads does not change the next one."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    yield
    torch.set_rng_state(state)
    torch.set_num_threads(threads)
