"""A video autoencoder is trained by the same loop: exactly, from its principal components, against a discriminator."""

import json
import math
import signal
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from text2video import video
from text2video.cli.dry_run import describe
from text2video.config import RunConfig
from text2video.data import shapes
from text2video.diffusion.objectives import Batch
from text2video.errors import ModelError, UsageError
from text2video.families.opening import load, open_model
from text2video.generation import generate
from text2video.models.codecs import encode, open_codec
from text2video.models.perceptual import ClipFeatures, LaplacianFeatures
from text2video.planner.plan import plan
from text2video.training.checkpoint import Checkpoints
from text2video.training.reconstruction import Reconstruction, divergence
from text2video.training.trainer import Trainer, train

VAE = [
    *("--kind", "vae", "--clips", "12", "--num_frames", "5", "--frame_size", "16", "--num_workers", "0"),
    *("--model_args", "{latent_channels: 4, block_out_channels: [32], encoder_layers: [1], decoder_layers: [1]}"),
    *("--measured_clips", "12", "--batch_size", "4", "--val_fraction", "0.25", "--val_samples", "4"),
    *("--learning_rate", "4e-3", "--warmup_steps", "1", "--ema_decay", "0.9", "--sample_steps", "0"),
    *("--save_steps", "10", "--eval_steps", "10", "--no_wandb", "--no_tensorboard", "--device", "cpu"),
]
AGAINST = ["--adversarial_weight", "0.1", "--adversarial_start", "2", "--discriminator_width", "8"]


def config_of(run: Path, *flags: str) -> RunConfig:
    return RunConfig.build({}, [*VAE, "--output_dir", str(run), *flags])


def rows(run: Path, name: str) -> list[float]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in found if name in row]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """A finished run against a discriminator, which plays from the third step on."""
    run = tmp_path_factory.mktemp("vae") / "run"
    often = ("--save_steps", "2", "--eval_steps", "2", "--sample_steps", "5", "--num_samples", "2")
    train(config_of(run, "--max_steps", "5", *often, *AGAINST))
    return run


def test_training_beats_the_principal_components_that_it_starts_from(tmp_path):
    before = Trainer(config_of(tmp_path / "start"))
    muon = ("--optimizer", "muon", "--muon_learning_rate", "0.05", "--save_steps", "60", "--eval_steps", "60")
    train(config_of(tmp_path / "run", "--max_steps", "60", *muon))
    clips = torch.stack([before.data.train[index]["video"] for index in range(12)])
    error = {}
    for name, pipe in (("start", before.pipe), ("end", load(tmp_path / "run"))):
        error[name] = (pipe(clips) - clips).square().mean().item()
    assert error["end"] < 0.9 * error["start"]


def test_a_run_starts_better_than_principal_components(tmp_path):
    trainer = Trainer(config_of(tmp_path))
    clips = torch.stack([trainer.data.train[index]["video"] for index in range(12)])

    def patches(videos: torch.Tensor) -> torch.Tensor:
        cut = videos[:, :, 1:].reshape(12, 3, 4, 2, 8, 2, 8).permute(0, 3, 5, 1, 2, 4, 6)
        return cut.reshape(48, -1)

    rest = patches(clips)
    axes = torch.linalg.svd(rest - rest.mean(0)).Vh[:4]
    principal = (rest - rest.mean(0)) @ axes.T @ axes + rest.mean(0)
    error = [(found - rest).square().mean() for found in (patches(trainer.pipe(clips)), principal.clamp(-1, 1))]
    assert error[0] < error[1]


def test_the_discriminator_plays_from_its_step_on(unbroken):
    assert len(rows(unbroken, "vae/loss")) == 3
    assert len(rows(unbroken, "discriminator/loss")) == 3
    saved = [load_file(unbroken / "checkpoints" / f"00000{step}" / "weights.safetensors") for step in (2, 4, 5)]
    changed = {
        part: [any(not torch.equal(a[n], b[n]) for n in a if n.startswith(part)) for a, b in pairwise(saved)]
        for part in ("vae.", "discriminator.")
    }
    assert changed == {"vae.": [True, True], "discriminator.": [True, True]}
    assert not (unbroken / "final" / "discriminator").exists()


def test_two_players_resume_exactly(unbroken, tmp_path, monkeypatch):
    flags = ["--max_steps", "5", "--save_steps", "2", "--eval_steps", "2", *AGAINST]

    def press_once(trainer, done):
        if done == 2:
            signal.raise_signal(signal.SIGINT)
        return False

    monkeypatch.setattr("text2video.training.trainer.Trainer.is_best", press_once)
    with pytest.raises(KeyboardInterrupt):
        train(config_of(tmp_path / "run", *flags))
    monkeypatch.undo()
    assert Checkpoints(tmp_path / "run", 3).steps()[-1] == 3
    train(config_of(tmp_path / "run", *flags), resume=True)
    for name in ("weights.safetensors", "ema.safetensors"):
        ours, theirs = (load_file(run / "checkpoints" / "000005" / name) for run in (tmp_path / "run", unbroken))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    for name in ("train/loss", "discriminator/loss", "val/loss"):
        assert rows(tmp_path / "run", name)[-1] == rows(unbroken, name)[-1]
    ours, theirs = (open_codec(run / "final" / "vae").config for run in (tmp_path / "run", unbroken))
    assert ours["latents_mean"] == theirs["latents_mean"]


def test_latents_have_about_unit_size(unbroken):
    vae = open_codec(unbroken / "final" / "vae")
    data = Trainer(config_of(unbroken.parent / "other")).data.train
    clips = torch.stack([data[index]["video"] for index in range(12)])
    latents = encode(vae, clips)
    size = latents.mean.square() + latents.logvar.exp()
    assert latents.mean.mean((0, 2, 3, 4)).abs().max() < 1e-3
    assert (size.mean((0, 2, 3, 4)) - 1).abs().max() < 1e-3


def test_previews_show_a_clip_beside_what_came_back(unbroken):
    files = sorted((unbroken / "samples" / "000005").glob("*.mp4"))
    assert len(files) == 2
    shown = video.read(files[0]).frames
    assert shown.shape == (5, 16, 32, 3)
    clip = Trainer(config_of(unbroken.parent / "another")).data.val[0]["video"]
    levels = ((clip + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
    left, right = (abs(half.astype(float) - levels).mean() for half in (shown[:, :, :16], shown[:, :, 16:]))
    assert left < right  # the file's own loss is on both sides


def test_it_is_a_codec_for_a_latent_model(unbroken, tmp_path, tiny_flags):
    flags = ["--codec", str(unbroken / "final" / "vae"), "--num_frames", "5", "--patch_size", "1", "1", "1"]
    flags += ["--max_steps", "2"]
    final = train(RunConfig.build({}, [*tiny_flags, "--output_dir", str(tmp_path / "latent"), *flags]))
    assert (final / "vae" / "config.json").is_file()
    assert load(final).vae.config["latents_std"] == open_codec(unbroken / "final" / "vae").config["latents_std"]


def test_it_generates_nothing_and_says_what_does(unbroken):
    family, pipe = open_model(unbroken, torch.device("cpu"))
    with pytest.raises(UsageError, match=r"video autoencoder.*--codec"):
        next(generate(family, pipe, ["a red circle"]))


def test_sizes_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"height 20 is no multiple of 8 \(nearest: 16 or 24\)"):
        train(config_of(tmp_path, "--frame_size", "20"))
    with pytest.raises(UsageError, match=r"num_frames 6 is not 4k\+1 \(nearest: 5 or 9\)"):
        train(config_of(tmp_path, "--num_frames", "6"))


def test_what_it_cannot_be_told_is_refused(tmp_path, unbroken, tiny_model):
    for start in ((), ("--kind", "unet3d", "--model", str(unbroken))):
        with pytest.raises(UsageError, match=r"trained whole, on pixels: leave out --lora\."):
            train(config_of(tmp_path, "--lora", *start))
    with pytest.raises(UsageError, match=r"model.kind is vae, there unet3d"):
        train(config_of(tmp_path, "--model", str(tiny_model)))
    with pytest.raises(ModelError, match=r"CLIP vision model.*cannot be loaded"):
        train(config_of(tmp_path, "--perceptual_weight", "1", "--perceptual_model", str(tmp_path / "none")))


def test_a_run_goes_on_from_a_finished_one(unbroken, tmp_path):
    trainer = Trainer(RunConfig.build({}, [*VAE[2:], "--output_dir", str(tmp_path / "on"), "--model", str(unbroken)]))
    before = load_file(unbroken / "final" / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(before[name], value) for name, value in trainer.pipe.vae.state_dict().items())
    assert isinstance(trainer.objective, Reconstruction)


def test_a_dry_run_says_what_it_would_be(tmp_path):
    said = describe(config_of(tmp_path, *AGAINST))
    assert "# video: [4, 3, 5, 16, 16]" in said
    assert "# vae: " in said


# --- the terms of the loss ----------------------------------------------------------------------------------------


def test_the_divergence_is_that_of_two_normals():
    mean, logvar = torch.full((2, 3, 1, 4, 4), 0.5), torch.full((2, 3, 1, 4, 4), -2.0)
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Normal(0.5, math.exp(-1)), torch.distributions.Normal(0.0, 1.0)
    )
    assert divergence(mean, logvar) == pytest.approx(3 * wanted.item(), rel=1e-5)
    assert divergence(torch.zeros(1, 2, 1, 1, 1), torch.zeros(1, 2, 1, 1, 1)) == 0


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("mse", 0.04),
        ("l1", 0.2),
        ("huber", 0.1 * (0.2 - 0.05)),
        ("log_mse", math.log(0.04 + (2 / 255) ** 2)),
    ],
)
def test_pixels_count_as_they_are_told_to(name, error):
    clip = torch.zeros(1, 3, 1, 8, 8)
    batch = Batch(clip, torch.zeros_like(clip), torch.zeros(1))
    assert Reconstruction(name, kl_weight=0.0).loss(given_back(clip + 0.2), batch) == pytest.approx(error)


def given_back(sample, judgement=None):
    """Stands where a family predicts: one sample for everything, latents that are standard normal."""

    class Output:
        mean = logvar = torch.zeros(1, 1, 1, 1, 1)

    def predict(x, u, condition):
        if condition.get("judge"):
            return judgement(x)
        Output.sample = sample
        return Output

    return predict


def test_the_judgement_is_a_hinge_and_counts_in_training_only():
    clip = torch.zeros(1, 3, 1, 8, 8)
    judge = nn.Linear(1, 1)
    objective = Reconstruction("mse", 0.0, discriminator=judge, adversarial_weight=0.5, adversarial_start=3)
    real_at = lambda x: torch.where(x.mean((1, 2, 3, 4)) == 0, 0.4, -0.2)  # noqa: E731 - real 0.4, made -0.2
    predict = given_back(clip + 1, real_at)
    batch = Batch(clip, torch.zeros_like(clip), torch.zeros(1), step=3)
    assert objective.loss(predict, batch, "discriminator") == pytest.approx((0.6 + 0.8) / 2)
    assert objective.loss(predict, batch) == pytest.approx(1.0 + 0.5 * 0.2)
    for step in (2, None):  # before it begins, and in a validation loss
        assert objective.loss(predict, Batch(clip, torch.zeros_like(clip), torch.zeros(1), step=step)) == 1.0
    assert [objective.plays("discriminator", step) for step in (2, 3)] == [False, True]


def test_pyramid_features_see_detail_and_no_constant_shift():
    features = LaplacianFeatures()
    torch.manual_seed(0)
    clip = torch.rand(1, 3, 2, 32, 32) - 0.5
    shifted, blurred = clip + 0.2, torch.nn.functional.avg_pool3d(clip, (1, 3, 3), 1, (0, 1, 1))
    bands = features(clip)
    assert [tuple(band.shape) for band in bands] == [(2, 3, 32, 32), (2, 3, 16, 16), (2, 3, 8, 8)]
    far = [
        max((a - b).abs().max() for a, b in zip(bands, features(other), strict=True)) for other in (shifted, blurred)
    ]
    assert far[0] < 1e-4 < 0.5 < far[1]
    # each band is over the contrast around it: twice the contrast changes it by far less than twice
    loud = [(b.abs().mean() / a.abs().mean()).item() for a, b in zip(bands, features(2 * clip), strict=True)]
    assert 1 < min(loud) <= max(loud) < 1.6


def test_clip_features_come_from_a_folder(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(tmp_path)
    features = ClipFeatures(tmp_path)
    clip = torch.rand(2, 3, 5, 8, 8).requires_grad_()
    layers = features(clip)
    assert {tuple(layer.shape) for layer in layers} == {(4, 5, 16)}
    assert all(torch.allclose(layer.square().sum(-1), torch.tensor(16.0), rtol=1e-4) for layer in layers)
    sum(layer[..., 0].sum() for layer in layers).backward()
    assert clip.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in features.parameters())


# --- the recipes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A data set of files."""
    folder = tmp_path_factory.mktemp("made")
    shapes.write(folder, 6, 0, 18, 24)
    return folder


@pytest.mark.parametrize("name", ["tiny", "real", "base", "large"])
def test_the_recipes_are_whole(name, made):
    path = Path(__file__).parents[2] / "configs" / f"vae-{name}.yaml"
    files = [] if name == "tiny" else ["--data_dir", str(made), "--val_fraction", "0.2"]
    config = RunConfig.load(path, [*files, "--num_workers", "0"])
    said = describe(RunConfig.load(path, [*files, "--batch_size", "1", "--frame_size", "64"]))
    assert "# vae: " in said
    planned = plan(config, on_gpu=True)
    if name == "base":
        assert planned.peak < 20e9
