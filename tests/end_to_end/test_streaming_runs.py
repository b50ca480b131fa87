"""From the demo world to a video that is written while it is made."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from text2video import load, video
from text2video.cli.main import run
from text2video.config import RunConfig
from text2video.errors import UsageError
from text2video.families.opening import family_of
from text2video.generation import Settings, stream
from text2video.training.trainer import train

CAUSAL = {
    "kind": "transformer",
    "time_attention": "causal",
    "model_args": {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12, "causal_block": 2},
}
RUN = (
    *("--shapes", "--clips", "8", "--num_frames", "6", "--frame_size", "8", "--text_width", "32", "--text_layers", "1"),
    *("--batch_size", "4", "--val_samples", "2", "--max_steps", "4", "--save_steps", "2", "--eval_steps", "4"),
    *("--schedule", "flow", "--prediction", "flow", "--forcing", "independent", "--learning_rate", "1e-2"),
    *("--warmup_steps", "1", "--num_workers", "0", "--no_wandb", "--no_tensorboard", "--device", "cpu"),
    *("--num_inference_steps", "2", "--sample_steps", "0"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a causal model trained for a few steps with noise levels of blocks."""
    folder = tmp_path_factory.mktemp("causal") / "run"
    return train(RunConfig.build({"model": CAUSAL}, [*RUN, "--output_dir", str(folder)]))


def test_a_step_repeats_exactly(trained, tmp_path):
    config = RunConfig.load(trained.parent / "run.yaml", ["--output_dir", str(tmp_path / "run")])
    config.train.max_steps = 2
    train(config)
    config.train.max_steps = 4
    again = train(config, resume=True)
    name = "transformer/diffusion_pytorch_model.safetensors"
    before, after = load_file(trained / name), load_file(again / name)
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert before["leave.weight"].any()  # it begins at zero


def test_three_blocks_and_more_are_streamed(trained):
    family, pipe = family_of(trained), load(trained, device="cpu")
    reports: list[tuple[int, int]] = []
    how = Settings(seed=5, num_frames=7, num_videos_per_prompt=2)
    first, second = (
        (result, np.stack(list(result.frames)))
        for result in stream(family, pipe, ["a red circle"], how, "here", lambda *done: reports.append(done), window=4)
    )
    assert first[1].shape == (7, 8, 8, 3)
    assert reports == [(2, 14), (4, 14), (6, 14), (7, 14), (9, 14), (11, 14), (13, 14), (14, 14)]
    assert first[0].metadata().items() >= {"seed": 5, "stream": True, "window": 4, "num_frames": 7}.items()
    (alone,) = stream(family, pipe, ["a red circle"], Settings(seed=6, num_frames=7), window=4)
    assert np.array_equal(np.stack(list(alone.frames)), second[1])
    sampler = pipe.scheduler
    (other,) = stream(family, pipe, ["a red circle"], Settings(scheduler="unipc", num_frames=4))
    assert pipe.scheduler is sampler
    assert len(list(other.frames)) == 4


def test_generate_writes_a_stream(trained, tmp_path, capsys):
    ask = ["generate", "--model", str(trained), "--prompt", "a red circle", "--num_frames", "9", "--stream"]
    for folder in ("a", "b"):
        assert run([*ask, "--output_dir", str(tmp_path / folder)]) == 0
    made, again = (tmp_path / folder / "a-red-circle.mp4" for folder in ("a", "b"))
    assert np.array_equal(video.read(made).frames, video.read(again).frames)
    assert video.probe(made).num_frames == 9
    settings = json.loads(made.with_suffix(".json").read_text(encoding="utf-8"))
    assert settings == video.read_metadata(made)
    assert settings["stream"] is True
    capsys.readouterr()
    for wrong, said in (
        (["--save_gif", "--batch_size", "2"], "no --save_gif, --batch_size"),
        (["--output_video", str(tmp_path / "x.gif")], "no --output_video with .gif"),
        (["--image", str(made)], "leave out --image"),
    ):
        assert run([*ask, *wrong]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert run([*ask[:-1], "--window", "4"]) == 2
    assert "add --stream" in capsys.readouterr().err


def test_what_has_no_blocks_is_refused(tiny, tiny_model):
    with pytest.raises(UsageError, match=r"only causal transformers have such blocks.*--time_attention causal"):
        tiny("--forcing", "independent")
    with pytest.raises(UsageError, match=r"data.pack has one noise level for a clip"):
        RunConfig.build({"model": CAUSAL}, [*RUN, "--pack", "512"])
    with pytest.raises(UsageError, match=r"UNet3D like this one has no such blocks"):
        train(tiny("--forcing", "independent", "--init_from", str(tiny_model)))
    with pytest.raises(UsageError, match=r"a UNet3D, makes a video as a whole"):
        list(stream(family_of(tiny_model), load(tiny_model, device="cpu"), ["a"]))
