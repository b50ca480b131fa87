"""Generators against discriminators are trained by the same loop, resume exactly, and answer to the same verbs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from text2video.cli import main
from text2video.config import RunConfig
from text2video.diffusion.objectives import Batch
from text2video.errors import UsageError
from text2video.families.opening import load, open_model
from text2video.generation import Settings, generate
from text2video.models.gan import GENERATORS, Discriminator, Made, spectral_norm
from text2video.planner.plan import plan
from text2video.sections import GANS
from text2video.training.adversarial import Adversarial, energy_score
from text2video.training.trainer import train

GAN = [
    *("--clips", "8", "--num_frames", "4", "--frame_size", "16", "--num_workers", "0", "--val_fraction", "0.25"),
    *("--model_args", "{channels: 8, latent_dim: 8}", "--text_width", "32", "--text_layers", "1"),
    *("--batch_size", "4", "--val_samples", "2", "--learning_rate", "1e-3", "--ema_decay", "0.9", "--max_steps", "3"),
    *("--sample_steps", "3", "--num_samples", "1", "--save_steps", "2", "--eval_steps", "3", "--caption_dropout", "0"),
    *("--lr_schedule", "constant"),
    *("--no_wandb", "--no_tensorboard", "--device", "cpu"),
]


def config_of(run: Path, *flags: str) -> RunConfig:
    return RunConfig.build({}, [*GAN, "--output_dir", str(run), *flags])


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A finished run of each kind."""
    folder = tmp_path_factory.mktemp("gans")
    for kind in GANS:
        train(config_of(folder / kind, "--kind", kind))
    return {kind: folder / kind for kind in GANS}


@pytest.mark.parametrize("kind", [(), ("--kind", "vae"), ("--kind", "autoregressive")])
def test_no_run_starts_from_one(runs, tmp_path, kind):
    flags = ["--init_from", str(runs["vgan"]), "--shapes", "--output_dir", str(tmp_path / "run"), *kind]
    with pytest.raises(UsageError, match="A GAN begins with nothing"):
        train(RunConfig.build({}, flags))


@pytest.mark.parametrize("kind", GANS)
def test_both_players_train_and_only_the_generator_is_kept(runs, kind):
    run = runs[kind]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(sum(name in row for row in rows) == 3 for name in ("generator/loss", "discriminator/loss"))
    assert [row["val/loss"] > 0 for row in rows if "val/loss" in row] == [True]
    saved = [load_file(run / "checkpoints" / step / "weights.safetensors") for step in ("000002", "000003")]
    for part in ("generator.", "text_encoder.", "discriminator."):
        own = [name for name in saved[0] if name.startswith(part)]
        assert any(not torch.equal(saved[0][name], saved[1][name]) for name in own), part
    assert {path.name for path in (run / "final").iterdir() if path.is_dir()} == {
        "generator",
        "text_encoder",
        "tokenizer",
    }
    assert len(list((run / "samples" / "000003").glob("*.mp4"))) == 1


def test_a_stopped_run_goes_on_exactly(runs, tmp_path):
    unbroken = runs["dvdgan"]
    train(config_of(tmp_path, "--kind", "dvdgan", "--max_steps", "2"))
    (tmp_path / "final").rename(tmp_path / "elsewhere")
    train(config_of(tmp_path, "--kind", "dvdgan"), resume=True)
    for name in ("weights.safetensors", "ema.safetensors"):
        ours, theirs = (load_file(run / "checkpoints" / "000003" / name) for run in (tmp_path, unbroken))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("kind", GANS)
def test_the_verbs_take_it(runs, kind, tmp_path, capsys):
    line = ["--model", str(runs[kind]), "--output_dir", str(tmp_path), "--device", "cpu"]
    assert main.run(["generate", *line, "--prompts", "a red circle moves left", "--seed", "3"]) == 0
    settings = json.loads((tmp_path / "a-red-circle-moves-left.json").read_text(encoding="utf-8"))
    assert settings["num_inference_steps"] == 1
    assert "scheduler" not in settings
    assert main.run(["evaluate", *line, "--num_prompts", "2", "--report"]) == 0
    assert "one step" in (tmp_path / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main.run(["generate", *line, "--prompts", "a red circle", "--guidance_scale", "5"]) == 2
    assert "leave out --guidance_scale" in capsys.readouterr().err


@pytest.mark.parametrize("kind", GANS)
def test_a_video_follows_from_seed_and_prompt_alone(runs, kind):
    family, pipe = open_model(runs[kind], torch.device("cpu"))
    words = ["a red circle moves left", "a blue square grows"]
    alone = [next(generate(family, pipe, [w], Settings(seed=n))).frames for n, w in enumerate(words)]
    assert all((a.frames == b).all() for a, b in zip(generate(family, pipe, words), alone, strict=True))
    assert (next(generate(family, pipe, words[1:], Settings(seed=0))).frames != alone[0]).any()
    assert (next(generate(family, pipe, words[:1], Settings(seed=1))).frames != alone[0]).any()
    assert alone[0].shape == (4, 16, 16, 3)


def test_recurrent_generators_make_videos_of_any_length(runs):
    draws = [torch.Generator().manual_seed(0)]
    for kind in ("mocogan", "dvdgan"):
        assert load(runs[kind])(["a red circle"], draws, num_frames=7).shape == (1, 3, 7, 16, 16)
    with pytest.raises(UsageError, match="num_frames 7"):
        load(runs["vgan"])(["a red circle"], draws, num_frames=7)


@pytest.mark.parametrize("kind", GANS)
def test_a_plan_counts_its_parts(kind, tmp_path):
    config = config_of(tmp_path, "--kind", kind, "--sample_steps", "0")
    assert plan(config, on_gpu=kind == "vgan").step.flops > 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--text_encoder", "t5"), "--text_encoder"),
        (("--gradient_checkpointing",), "--gradient_checkpointing"),
        (("--num_inference_steps", "20"), "one step: leave out --num_inference_steps"),
        (("--frame_size", "12"), "height 12"),
        (("--init_from", "RUN"), "--resume"),
    ],
)
def test_what_it_cannot_do_is_said(runs, tmp_path, flags, said):
    given = [str(runs["vgan"]) if flag == "RUN" else flag for flag in flags]
    with pytest.raises(UsageError, match=said):
        train(config_of(tmp_path, "--kind", "vgan", *given))


def test_the_discriminator_learns_what_is_real_and_what_fits():
    """Its loss is 0 where real videos with their captions lie above 1, and all others below -1."""
    batch = Batch(torch.ones(2, 3, 4, 8, 8), torch.zeros(2, 3, 4, 8, 8), torch.rand(2), step=0)
    batch.condition = {"caption": torch.eye(2)}

    def predict(x, u, condition):
        if "judge" not in condition:
            return Made(torch.zeros_like(x), torch.full_like(x[:, :1], 0.5))
        own = torch.eye(2).repeat(len(x) // 2, 1)
        fits = torch.einsum("bnd,bd->bn", condition["judge"], own)
        return (4 * fits * x.flatten(1).mean(1, keepdim=True) - 2)[..., None]

    objective = Adversarial(torch.nn.Linear(1, 1))
    assert objective.loss(predict, batch, "discriminator") == 0
    assert objective.loss(predict, batch, "generator") == 2 + 0.1 * 0.5


def test_the_energy_score_is_lowest_for_what_is_as_varied_as_the_videos():
    generator = torch.Generator().manual_seed(0)
    videos, noise = (torch.randn(500, 3, 1, 1, 2, generator=generator) for _ in range(2))

    def score(spread: float) -> float:
        def predict(x, u, condition):
            return Made(spread * x[:, :, :, :, :1].expand_as(x))

        first = videos[..., :1].expand_as(videos)  # noise is drawn twice from its halves
        return energy_score(predict, Batch(first, noise, torch.rand(500))).item()

    assert score(1.0) < min(score(0.5), score(1.6))


def test_weights_have_the_spectral_norm_one():
    weight = torch.randn(24, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = torch.linalg.matrix_norm(weight.flatten(1), 2)
    assert abs(spectral_norm(weight) / found - 1) < 1e-3


def test_generators_are_of_about_the_same_size():
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in kind().parameters()) for kind in GENERATORS.values()]
    assert max(sizes) < 4 * min(sizes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", GANS)
def test_a_generator_learns_the_colours_that_captions_ask_for(kind):
    torch.manual_seed(0)
    generator = GENERATORS[kind](3, 4, 16, 16, latent_dim=8, channels=8)
    discriminator = Discriminator(kind, 3, 8)
    objective, colours = Adversarial(discriminator), 2 * torch.eye(3) - 1

    def predict(x, u, condition):
        if "judge" in condition:
            return discriminator(x, u, condition["judge"])
        frames = x.shape[2]
        return generator(x.flatten(1)[:, : generator.noise_size(frames)], condition["caption"], frames)

    players = objective.players([*generator.parameters(), *discriminator.parameters()])
    optimizers = {name: torch.optim.Adam(own, 1e-3, (0.0, 0.99)) for name, own in players.items()}
    right = []
    for step in range(300):
        asked, corners = torch.randint(3, (16,)), torch.randint(9, (16, 2))
        video = -torch.ones(16, 3, 4, 16, 16)
        for clip, colour, (y, x) in zip(video, colours[asked], corners.tolist(), strict=True):
            clip[:, :, y : y + 8, x : x + 8] = colour[:, None, None, None]
        condition = {"caption": torch.eye(3)[asked]}
        for player, optimizer in optimizers.items():
            batch = Batch(video, torch.randn_like(video), torch.rand(16), condition, step)
            objective.loss(predict, batch, player).backward()
            optimizer.step()
            generator.zero_grad()
            discriminator.zero_grad()
        with torch.no_grad():
            made = predict(torch.randn_like(video), batch.u, condition).sample.mean((2, 3, 4))
        right.append((made.argmax(1) == asked).float().mean().item())
    assert sum(right[-50:]) / 50 > 0.6  # a third is chance
