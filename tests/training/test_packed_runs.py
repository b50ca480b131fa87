"""Runs over clips packed at their own sizes: a step learns what the clips one by one would teach."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from text2video import video
from text2video.cli.dry_run import describe
from text2video.config import RunConfig
from text2video.data.dataset import TextVideoDataset
from text2video.diffusion.objectives import TextToVideoDiffusion
from text2video.errors import DataError, UsageError
from text2video.families.native import NativeFamily
from text2video.families.opening import family_of, load
from text2video.generation import Settings, generate
from text2video.models.transformer import VideoTransformer
from text2video.sizes import Bucket
from text2video.training.build import tokens_of
from text2video.training.data import batches, sampler_of
from text2video.training.trainer import Trainer, train

SIZES = [(6, 32, 24), (9, 16, 40), (3, 24, 24), (5, 48, 16), (12, 20, 20), (4, 16, 16), (7, 32, 32)]
TINY = "{num_layers: 2, num_attention_heads: 2, attention_head_dim: 16}"
FLAGS = [
    *("--kind", "transformer", "--model_args", TINY),
    *("--patch_size", "1", "4", "4", "--text_width", "32", "--text_layers", "1", "--schedule", "flow"),
    *("--prediction", "flow", "--shift", "auto", "--scheduler", "flow", "--buckets", "native", "--pack", "900"),
    *("--num_frames", "8", "--frame_size", "32", "--fps", "8", "--val_fraction", "0.2", "--val_samples", "4"),
    *("--learning_rate", "1e-2", "--warmup_steps", "0", "--max_steps", "4", "--save_steps", "2", "--eval_steps", "2"),
    *("--sample_steps", "0", "--num_inference_steps", "2", "--num_workers", "0", "--batch_size", "2"),
    *("--no_wandb", "--no_tensorboard", "--ema_decay", "0.9", "--device", "cpu"),
]


class Bright(TextVideoDataset):
    """Says how bright each clip is."""

    def __getitem__(self, key):
        item = super().__getitem__(key)
        return item | {"conditions": {"condition": item["video"].float().mean().reshape(1)}}


class Lit(VideoTransformer):
    """Is told how bright the clip is."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.light = torch.nn.Linear(1, self.enter.out_features)

    def forward(self, sample, timestep, encoder_hidden_states=None, condition=None, **kwargs):
        return super().forward(sample, timestep, encoder_hidden_states, added_embedding=self.light(condition), **kwargs)


class Twice(TextToVideoDiffusion):
    """Asks for two predictions."""

    def loss(self, predict, batch, player="denoiser"):
        return super().loss(predict, batch, player) + super().loss(predict, batch, player)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Fourteen clips of seven sizes and lengths, and a picture."""
    root = tmp_path_factory.mktemp("native")
    (root / "videos").mkdir()
    noise, captions = np.random.default_rng(0), {"still.png": "a picture"}
    for number in range(14):
        frames = noise.integers(0, 256, (*SIZES[number % len(SIZES)], 3), np.uint8)
        video.write(root / f"videos/{number:02d}.mp4", frames, 8)
        captions[f"{number:02d}.mp4"] = f"clip {number}"
    Image.fromarray(frames[0]).save(root / "videos/still.png")
    (root / "captions.json").write_text(json.dumps(captions))
    return root


@pytest.fixture
def packed(folder, tmp_path):
    """A function that makes the configuration of a tiny packed run."""

    def make(*flags: str, output_dir: Path = tmp_path / "run") -> RunConfig:
        return RunConfig.build({}, [*FLAGS, "--data_dir", str(folder), "--output_dir", str(output_dir), *flags])

    return make


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final/transformer/diffusion_pytorch_model.safetensors")


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in trainer.ema.parameters.items() if p.grad is not None}
    for parameter in trainer.ema.parameters.values():
        parameter.grad = None
    return found


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--caption_dropout", "0.5", "--model_args", TINY.replace("}", ", time_attention: factorised}")),
        ("--dataset_class", "test_packed_runs:Bright", "--model_class", "test_packed_runs:Lit"),
    ],
    ids=["plain", "caption dropout", "conditions"],
)
def test_a_packed_step_is_the_mean_of_its_clips(packed, flags):
    trainer = Trainer(packed(*flags))
    for parameter in trainer.ema.parameters.values():  # fresh, it predicts nothing
        torch.nn.init.normal_(parameter, std=0.1)
    stream = batches(trainer.data.train, trainer.sampler, 0)
    (own,) = trainer.sampler.shares(0)
    clips, captions = trainer.batch(0, own, trainer.sampler.size(0), next(stream))
    assert len(clips) == len(captions) == len(own) > 2
    assert len({clip.x_0.shape for clip in clips}) > 1
    if "--caption_dropout" in flags:
        assert 0 < captions.count("") < len(captions)

    loss = trainer.loss("denoiser", clips, captions)
    loss.backward()
    packed_gradients = gradients(trainer)
    alone = [trainer.loss("denoiser", [clip], [text]) for clip, text in zip(clips, captions, strict=True)]
    torch.stack(alone).mean().backward()
    assert loss.item() == pytest.approx(torch.stack(alone).mean().item(), abs=1e-5)
    wanted = gradients(trainer)
    assert wanted.keys() == packed_gradients.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(packed_gradients[name], gradient, atol=1e-5), name
    assert ("transformer.light.weight" in wanted) == ("--model_class" in flags)


def test_what_was_trained_makes_sizes_and_durations_it_never_saw(packed, tmp_path):
    final = train(packed())
    log = (tmp_path / "run/training.log").read_text()
    assert "tokens in" in log
    assert "pack of the largest clips, with --pack 900, fits into memory" in log
    assert "validation loss" in log
    pipe = load(final, device="cpu")
    settings = Settings(num_frames=11, height=20, width=52)
    (result,) = generate(family_of(final), pipe, ["clip 3"], settings)
    assert result.frames.shape == (11, 20, 52, 3)


def test_interrupted_and_resumed_equals_unbroken(packed, tmp_path, monkeypatch):
    train(packed(output_dir=tmp_path / "whole"))
    monkeypatch.setattr(Trainer, "agree", lambda trainer, flag: trainer.checkpoints.steps() == [])
    with pytest.raises(KeyboardInterrupt):
        train(packed(output_dir=tmp_path / "parts"))
    monkeypatch.undo()
    train(packed(output_dir=tmp_path / "parts"), resume=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    whole = weights(tmp_path / "whole")
    assert all(torch.equal(whole[name], value) for name, value in weights(tmp_path / "parts").items())


def test_micro_steps_are_packs_of_one_step(packed):
    """Two packs in a step: the mean is over their clips, however many each has."""
    trainer = Trainer(packed("--gradient_accumulation_steps", "2", "--pack", "700"))
    k = next(k for k in range(50) if len(set(map(len, trainer.sampler.shares(k)))) == 2)
    trainer.sampler.start, size, total = k, trainer.sampler.size(k), 0.0
    stream = batches(trainer.data.train, trainer.sampler, 0)
    for own in trainer.sampler.shares(k):
        clips, captions = trainer.batch(k, own, size, next(stream))
        assert len(clips) == len(own)
        total += sum(trainer.loss("denoiser", [c], [t]).item() for c, t in zip(clips, captions, strict=True))
    found, _ = trainer.step(k, batches(trainer.data.train, trainer.sampler, 0))
    assert found["train/loss"].item() == pytest.approx(total / size, abs=1e-5)


def test_a_dry_run_tells_of_packs(packed):
    text = describe(packed())
    assert "tokens in" in text
    assert "steps in all: 4" in text


def test_what_cannot_be_packed_is_said(packed, tiny):
    with pytest.raises(UsageError, match=r"a unet3d cannot take: choose model\.kind transformer"):
        tiny("--pack", "100")
    with pytest.raises(UsageError, match=r"leave out train\.last_batch"):
        packed("--last_batch", "smaller")
    unpacked = packed()
    unpacked.data.pack = None
    with pytest.raises(UsageError, match="pack them by --pack TOKENS"):
        sampler_of(unpacked, [], lambda shape: 1)
    with pytest.raises(DataError, match="longer than a pack of 20 tokens"):
        Trainer(packed("--pack", "20"))
    family = NativeFamily()
    with pytest.raises(UsageError, match="This one is a UNet3D"):
        tokens_of(family, family.create(tiny(), ["a clip"], Bucket(4, 16, 16)), Bucket(4, 16, 16))
    with pytest.raises(UsageError, match="Twice asks for 2 predictions of a clip"):
        train(packed("--objective", "test_packed_runs:Twice"))
