"""Our own latent U-Net in whole runs: codec, trainer, previews, adapters and sampler work with it as with any model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from contract import Oracle, opened
from safetensors.torch import load_file

from text2video import LatentUNet3D
from text2video.cli.dry_run import describe
from text2video.config import RunConfig
from text2video.errors import UsageError
from text2video.generation import Settings, generate
from text2video.planner.facts import facts_of
from text2video.training.trainer import train

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("latent-unet-*.yaml"))
SIZE = ("--model_channels", "16", "--channel_mult", "1", "2", "--num_res_blocks", "1", "--attention", "none", "causal")
RUN = (
    *("--shapes", "--clips", "6", "--num_frames", "5", "--frame_size", "16", "--text_width", "32", "--batch_size", "2"),
    *("--text_layers", "1", "--val_samples", "2", "--max_steps", "2", "--save_steps", "1", "--eval_steps", "2"),
    *("--learning_rate", "1e-2", "--num_workers", "0", "--no_wandb", "--no_tensorboard", "--device", "cpu"),
    *("--num_inference_steps", "3", "--scheduler", "ddim", "--sample_steps", "2", "--num_samples", "1"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, codecs) -> Path:
    """The folder of a model trained for two steps on latents of 5 x 8 x 8."""
    flags = ["--kind", "latent_unet", "--codec", str(codecs()), *SIZE, *RUN, "--gradient_checkpointing"]
    return train(RunConfig.build({}, [*flags, "--output_dir", str(tmp_path_factory.mktemp("latent") / "run")]))


def test_it_is_trained_previewed_saved_and_asked(trained):
    run = trained.parent
    assert list((run / "samples").rglob("*.mp4"))
    assert RunConfig.load(run / "run.yaml").model.kind == "latent_unet"
    family, pipe = opened(trained)
    assert type(pipe.unet) is LatentUNet3D
    assert pipe.unet.config["in_channels"] == 4
    assert pipe.unet.leave.weight.any()  # it begins at zero
    assert (pipe.rules.frames.step, pipe.rules.height.step) == (1, 4)
    wide = Settings(num_frames=3, height=16, width=24, num_inference_steps=2)
    (found,) = generate(family, pipe, ["a red circle"], wide)
    assert found.frames.shape == (3, 16, 24, 3)


def test_resumed_equals_unbroken(trained, tmp_path):
    config = RunConfig.load(trained.parent / "run.yaml", ["--output_dir", str(tmp_path / "run"), "--sample_steps", "0"])
    config.train.max_steps = 1
    train(config)
    config.train.max_steps = 2
    again = train(config, resume=True)
    name = Path("unet") / "diffusion_pytorch_model.safetensors"
    before, after = load_file(trained / name), load_file(again / name)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_the_oracle_lands_on_x_0(trained):
    family, pipe = opened(trained)
    oracle = Oracle(pipe.unet, family, pipe)
    x_0 = torch.randn(1, 4, 5, 8, 8, generator=torch.Generator().manual_seed(9)).clamp(-1, 1)
    oracle.show(family, pipe, "unet", x_0, family.encode_text(pipe, {}, ["a red circle"]))
    pipe.unet = oracle
    ended: list[torch.Tensor] = []
    pipe.sample(["a red circle"], [torch.Generator().manual_seed(0)], on_step=lambda i, n, x: ended.append(x))
    assert oracle.calls > 1
    torch.testing.assert_close(ended[-1], x_0, atol=1e-5, rtol=1e-5)


def test_adapters_are_trained_on_it(trained, tmp_path):
    flags = [
        "--model",
        str(trained),
        "--lora",
        "--rank",
        "2",
        *RUN,
        "--output_dir",
        str(tmp_path),
        "--learning_rate",
        "1",
    ]
    adapter = train(RunConfig.build({}, flags))
    settings = Settings(num_inference_steps=2)
    (base,), (adapted,) = (generate(*opened(path), ["a red circle"], settings) for path in (trained, adapter))
    assert not np.array_equal(base.frames, adapted.frames)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_fits_together(path, codecs):
    """At its full size, on tensors without contents; with a codec of 4k+1 frames and 8 pixels a latent."""
    codec = codecs("AutoencoderKLWan")
    config = RunConfig.load(path, ["--codec", str(codec), "--text_encoder", "builtin"])
    found = facts_of(config)
    found.rules.check(config.data.shape)
    x_t = torch.empty(1, *found.latents, device="meta")
    with torch.device("meta"):
        assert found.predict(x_t, torch.zeros(1)).shape == x_t.shape


def test_the_tiny_recipe_would_run(codecs):
    path = next(path for path in CONFIGS if path.stem.endswith("tiny"))
    said = describe(RunConfig.load(path, ["--codec", str(codecs("AutoencoderKLWan")), "--batch_size", "2"]))
    assert "# latents: [2, 4, 5, 4, 4]" in said


def test_what_it_does_not_have_is_refused():
    assert RunConfig.build({"model": {"kind": "latent_unet"}}).model.attention == ["factorised"] * 3
    with pytest.raises(UsageError, match=r"model\.kind is latent_unet, which has no model\.conv: leave it out"):
        RunConfig.build({"model": {"conv": "factorised"}}, ["--kind", "latent_unet"])
