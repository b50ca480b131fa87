"""Whole runs that begin with a model of images: its layers free, frozen, low-rank; what comes out, what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import stable_diffusion
from contract import opened
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from text2video import LatentUNet3D, UNet3D
from text2video.cli.dry_run import describe
from text2video.config import RunConfig
from text2video.errors import ModelError, UsageError
from text2video.generation import Settings, generate
from text2video.models.inflation import along_time
from text2video.models.stable_diffusion import inflate_stable_diffusion
from text2video.planner.facts import facts_of
from text2video.training.starting import open_base
from text2video.training.trainer import Trainer, train

RUN = (
    *("--shapes", "--clips", "6", "--num_frames", "4", "--frame_size", "16", "--batch_size", "2", "--val_samples", "2"),
    *("--max_steps", "2", "--save_steps", "1", "--eval_steps", "2", "--learning_rate", "1e-2", "--num_workers", "0"),
    *("--no_wandb", "--no_tensorboard", "--device", "cpu", "--sample_steps", "0", "--ema_decay", "0", "--preset"),
    *("finetune", "--mixed_precision", "no"),
)
IMAGES = (
    *("--num_frames", "1", "--conv", "2d", "--attention", "none", "space", "--channel_mult", "1", "2"),
    *("--model_channels", "16", "--num_res_blocks", "1", "--head_dim", "16", "--downsample_time", "false"),
    *("--patch_size", "1", "2", "2", "--text_width", "32", "--text_layers", "1", "--num_inference_steps", "2"),
    *("--schedule", "flow", "--prediction", "x0", "--scheduler", "flow"),
)
VIDEOS = ("--conv", "factorised", "--attention", "none", "factorised")
WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"


def configured(*flags: object) -> RunConfig:
    return RunConfig.build({}, [*RUN, *map(str, flags)])


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """The folder of a model of single frames, trained for two steps."""
    return train(configured(*IMAGES, "--output_dir", tmp_path_factory.mktemp("images") / "run"))


@torch.no_grad()
def test_at_first_it_is_the_pipeline_of_images_in_every_frame(made):
    folder = made(stable_diffusion)
    _, pipe = open_base(configured("--init_from", folder / "unet"))
    plain = StableDiffusionPipeline.from_pretrained(folder)
    assert type(pipe.unet) is LatentUNet3D
    assert (pipe.config["height"], pipe.config["prediction"]) == (16, "epsilon")
    assert torch.equal(pipe.scheduler.alphas_cumprod, plain.scheduler.alphas_cumprod)
    pipe.use_sampler("dpm++")
    assert torch.equal(pipe.scheduler.alphas_cumprod, plain.scheduler.alphas_cumprod)
    text = plain.encode_prompt("a red circle", "cpu", 1, False)[0]
    told = pipe.encode_prompt(["a red circle"])
    torch.testing.assert_close(told["encoder_hidden_states"], text, atol=1e-5, rtol=1e-5)
    x_t = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    frames = plain.unet(x_t[0].transpose(0, 1), 500, text.expand(3, -1, -1)).sample.transpose(0, 1)[None]
    torch.testing.assert_close(pipe.predict(x_t, torch.tensor([500.0]), told), frames, atol=1e-5, rtol=1e-5)


def test_stable_diffusion_is_trained_with_its_layers_free_frozen_or_low_rank(made, tmp_path):
    folder = made(stable_diffusion)
    config = StableDiffusionPipeline.from_pretrained(folder).unet.config
    image = inflate_stable_diffusion(config, load_file(folder / WEIGHTS)).state_dict()
    videos = []
    for spatial in ("free", "frozen", "lora"):
        flags = ("--spatial", spatial, "--spatial_rank", 2, "--output_dir", tmp_path / spatial)
        final = train(configured("--model", folder, *flags))
        family, pipe = opened(final)
        state = pipe.unet.state_dict()
        assert state.keys() == image.keys()  # what trains in low rank is part of the weights
        changed = {name for name in state if not torch.equal(state[name], image[name])}
        own = {name for name in state if not along_time(pipe.unet, name)}
        assert any("conv_time" in name for name in changed)
        assert bool(changed & own) == (spatial != "frozen")
        if spatial == "lora":
            change = state["down.0.0.conv_in.weight"] - image["down.0.0.conv_in.weight"]
            assert torch.linalg.matrix_rank(change.flatten(1), rtol=1e-4) == 2
            assert not any(name.endswith("bias") for name in changed & own)
        videos += generate(family, pipe, ["a red circle"], Settings(num_inference_steps=2))
    assert not np.array_equal(videos[0].frames, videos[1].frames)
    written = RunConfig.load(tmp_path / "free" / "run.yaml")
    assert written.model.kind == "latent_unet"
    assert Trainer(written).run_config == written
    assert "text_encoder: 0.01M parameters, frozen" in describe(configured("--model", folder, "--spatial", "frozen"))


def test_a_model_of_single_frames_goes_on_as_one_of_videos(images, tmp_path):
    before = load_file(images / WEIGHTS)
    assert before["enter.weight"].shape[2] == 1
    config = configured("--init_from", images, *VIDEOS, "--spatial", "frozen", "--output_dir", tmp_path / "run")
    family, pipe = opened(train(config))
    assert type(pipe.unet) is UNet3D
    assert pipe.unet.config["attention"] == ["none", "factorised"]
    assert pipe.config["num_frames"] == 4
    after = pipe.unet.state_dict()
    assert torch.equal(after["enter.0.weight"], before["enter.weight"])
    assert torch.equal(after["leave.weight"][:, :, 1], before["leave.weight"][:, :, 0])
    assert after["down.1.0.attentions.time.out.weight"].any()
    (found,) = generate(family, pipe, ["a red circle"], Settings(num_inference_steps=2))
    assert found.frames.shape == (4, 16, 16, 3)

    facts = facts_of(config)  # planned as what it becomes
    new = sum(p.numel() for name, p in pipe.unet.named_parameters() if along_time(pipe.unet, name))
    assert sum(p.numel() for p in facts.trained.values()) == new
    again = train(configured("--init_from", images, "--num_frames", "1", "--output_dir", tmp_path / "images"))
    assert opened(again)[1].unet.config["conv"] == "2d"  # on single frames it stays what it is


def test_resumed_equals_unbroken_in_low_rank(images, tmp_path):
    flags = ("--init_from", images, *VIDEOS, "--spatial", "lora", "--ema_decay", "0.5")
    whole = train(configured(*flags, "--output_dir", tmp_path / "whole"))
    config = configured(*flags, "--output_dir", tmp_path / "parts", "--max_steps", 1)
    train(config)
    config.train.max_steps = 2
    parts = train(config, resume=True)
    one, other = load_file(whole / WEIGHTS), load_file(parts / WEIGHTS)
    assert one.keys() == other.keys()
    assert not any("lora" in name or "base_layer" in name for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("flags", "error", "said"),
    [
        (["--lora"], UsageError, "trains adapters alone. .* --spatial lora"),
        (["--lora", "--spatial", "lora"], UsageError, "leave out lora"),
    ],
)
def test_what_cannot_be_is_said(made, flags, error, said):
    with pytest.raises(error, match=said):
        open_base(configured("--init_from", made(stable_diffusion), *flags))


def test_models_that_cannot_begin_a_video_are_refused(made, images, tmp_path):
    with pytest.raises(UsageError, match="without --load_tensors"):
        open_base(RunConfig.build({}, ["--init_from", str(made(stable_diffusion)), "--load_tensors", "prepared"]))
    with pytest.raises(UsageError, match=r"optim\.spatial frozen .* name that model by --init_from"):
        configured("--spatial", "frozen")
    whole = configured("--init_from", images, *VIDEOS, "--conv", "3d", "--spatial", "lora", "--output_dir", tmp_path)
    with pytest.raises(UsageError, match="convolutions are 3d"):
        train(whole)
    with pytest.raises(ModelError, match="attention has 3 levels"):
        describe(configured("--init_from", images))
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "config.json").write_bytes((made(stable_diffusion) / "unet" / "config.json").read_bytes())
    with pytest.raises(ModelError, match="is a UNet2DConditionModel by itself"):
        open_base(configured("--init_from", alone))
    wide = tmp_path / "wide"
    shutil.copytree(made(stable_diffusion), wide)
    config = UNet2DConditionModel.load_config(wide / "unet")
    UNet2DConditionModel.from_config(config, in_channels=9).save_pretrained(wide / "unet")
    with pytest.raises(ModelError, match="takes 9 channels, gives 4 and reads text 16 wide; its autoencoder has 4"):
        open_base(configured("--init_from", wide))
    broken = tmp_path / "broken"
    (broken / "unet").mkdir(parents=True)
    for name in ("model_index.json", "unet/config.json"):
        (broken / name).write_bytes((made(stable_diffusion) / name).read_bytes())
    with pytest.raises(
        ModelError, match=r"There has to be a diffusion_pytorch_model.safetensors; there is config.json"
    ):
        open_base(configured("--init_from", broken))
