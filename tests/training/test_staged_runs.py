"""Stages: one model on small videos first, then on larger ones, in one run that can be broken anywhere."""

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from test_trainer import kill_and_resume
from two_processes import run_in_two

from text2video.config import RunConfig
from text2video.errors import UsageError
from text2video.families.opening import load
from text2video.training.checkpoint import Checkpoints
from text2video.training.trainer import Trainer, train

STAGES = ["{frame_size: 8, num_frames: 2, batch_size: 6, max_steps: 3, lr_schedule: constant}"]
STAGES += ["{max_steps: 4, learning_rate: 2e-3, warmup_steps: 0}"]


def flags_of(flags, *stages, steps=2):
    """A tiny run's options without its length, with these stages."""
    at = flags.index("--max_steps")
    kept = [*flags[:at], *flags[at + 2 :], "--model_args", "{dropout: 0.1}"]
    return [*kept, "--save_steps", str(steps), "--eval_steps", "2", "--stages", *(stages or STAGES)]


def config_of(flags, folder):
    return RunConfig.build({}, [*flags, "--output_dir", str(folder)])


def rows(run, key="train/loss"):
    """step -> figure, each step once."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    pairs = [(row["step"], row[key]) for row in found if key in row]
    assert len(pairs) == len(dict(pairs)), "a step stands twice in metrics.jsonl"
    return dict(pairs)


def assert_same_run(run, other):
    for key in ("train/loss", "val/loss", "lr"):
        assert rows(run, key) == rows(other, key)
    assert (run / "best").read_text() == (other / "best").read_text()
    for folder in ("final/unet", "final/text_encoder"):
        (file,) = (other / folder).glob("*.safetensors")
        before = load_file(file)
        for name, value in load_file(run / folder / file.name).items():
            assert torch.equal(value, before[name]), name


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, tiny_flags):
    """A finished run of two stages, and the command line that repeats it elsewhere."""
    flags = flags_of(tiny_flags)
    run = tmp_path_factory.mktemp("stages") / "run"
    train(config_of([*flags, "--sample_steps", "3", "--num_samples", "1"], run))
    return run, flags


def test_steps_count_on_and_each_stage_has_its_own_shape_and_rate(unbroken):
    run, _ = unbroken
    assert sorted(rows(run)) == list(range(1, 8))
    assert list(rows(run, "val/loss")) == [2, 3, 4, 6, 7]
    rates = rows(run, "lr")
    assert [rates[step] for step in (1, 2, 3)] == [1e-3] * 3
    assert rates[4] == 2e-3
    assert rates[7] < rates[6] < rates[5] <= 2e-3
    shapes = {step: load(run / "checkpoints" / f"{step:06d}", device="cpu").config for step in (6, 7)}
    assert {(shape["num_frames"], shape["height"]) for shape in shapes.values()} == {(4, 16)}
    log = (run / "training.log").read_text()
    assert "stage 1 of 2, steps 1 to 3: 2x8x8 (2 frames of 8x8 pixels), batch size 6" in log
    assert "stage 2 of 2, steps 4 to 7: 4x16x16 (4 frames of 16x16 pixels), batch size 4" in log
    assert "step 7/7" in log
    assert "A step had" not in log


def test_previews_have_the_shape_of_their_stage(unbroken):
    from text2video import video

    run, _ = unbroken
    shown = {folder.name: video.read(next(folder.glob("*.mp4"))).frames.shape for folder in (run / "samples").iterdir()}
    assert shown == {"000003": (2, 8, 8, 3), "000006": (4, 16, 16, 3), "000007": (4, 16, 16, 3)}


def test_run_yaml_repeats_the_run(unbroken, tmp_path):
    run, _ = unbroken
    config = RunConfig.load(run / "run.yaml", ["--output_dir", str(tmp_path / "run"), "--sample_steps", "0"])
    assert len(config.stages) == 2
    train(config)
    assert_same_run(tmp_path / "run", run)


class Killed(Exception):
    """Ends a run as a kill does: no checkpoint, no last words."""


def press(trainer):
    signal.raise_signal(signal.SIGINT)


def kill(trainer):
    raise Killed


@pytest.mark.parametrize(
    ("end", "step", "kept"),
    [(press, 1, 1), (press, 3, 3), (press, 4, 4), (kill, 2, 0), (kill, 3, 2), (kill, 4, 3), (kill, 7, 6)],
)
def test_stopped_in_a_stage_or_between_two_and_resumed_equals_unbroken(
    unbroken, tmp_path, monkeypatch, end, step, kept
):
    """Ctrl-C comes, or the run ends at once, in step `step`; stage 1 is steps 1 to 3."""
    run, flags = unbroken
    config, whole = config_of(flags, tmp_path / "run"), Trainer.step

    def broken(trainer, index, stream):
        if index + 1 == step:
            end(trainer)
        return whole(trainer, index, stream)

    monkeypatch.setattr(Trainer, "step", broken)
    with pytest.raises(KeyboardInterrupt if end is press else Killed):
        train(config)
    monkeypatch.undo()
    assert (Checkpoints(tmp_path / "run", 3).steps() or [0])[-1] == kept
    assert not (tmp_path / "run" / "final").exists()
    train(config, resume=True)
    assert_same_run(tmp_path / "run", run)


def test_clips_of_a_stage_come_in_an_order_of_its_own(tiny_flags, tmp_path):
    """Same clips, same batch: the second stage begins a new epoch, which is not the first one again."""
    flags = flags_of(tiny_flags, "{max_steps: 4}", "{max_steps: 4}")
    config, seen = config_of(flags, tmp_path / "run"), []
    for number in (0, 4):
        if number:
            (config.output_dir / "checkpoints" / "000004").mkdir(parents=True)
        monkey = pytest.MonkeyPatch()
        monkey.setattr("text2video.training.trainer.build", built_anew)
        trainer = Trainer(config)
        monkey.undo()
        assert trainer.stage.first == number
        seen.append([index for k in range(3) for index, _ in trainer.sampler.batch(trainer.before_stage + number + k)])
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(12))
    assert seen[0] != seen[1]


def built_anew(config, captions, shape, base, begun, cache):
    """`build` without the model of the checkpoint, which is not there."""
    from text2video.training.build import build

    return build(config, captions, shape, base, None, cache)


def test_shapes_of_later_stages_are_checked_before_the_first_step(tiny_flags, tmp_path):
    flags = flags_of(tiny_flags, "{max_steps: 2}", "{max_steps: 2, frame_size: 17}")
    with pytest.raises(UsageError, match="17"):
        train(config_of(flags, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_finished_run_goes_on_with_another_stage(unbroken, tmp_path):
    run, flags = unbroken
    shutil.copytree(run, tmp_path / "run")
    more = RunConfig.build(config_of(flags, tmp_path / "run").model_dump() | {"stages": []})
    more = RunConfig.build(more.model_dump() | {"stages": [*config_of(flags, run).stages, {"max_steps": 1}]})
    train(more, resume=True)
    assert sorted(rows(tmp_path / "run")) == list(range(1, 9))
    assert rows(tmp_path / "run")[7] == rows(run)[7]


PACKED = [
    *("--kind", "transformer", "--model_args", "{num_layers: 1, num_attention_heads: 1, attention_head_dim: 16}"),
    *("--patch_size", "1", "4", "4", "--text_width", "32", "--text_layers", "1", "--schedule", "flow", "--fps", "8"),
    *("--prediction", "flow", "--frame_size", "16", "--num_frames", "4", "--batch_size", "2", "--val_samples", "2"),
    *("--val_fraction", "0.2", "--learning_rate", "1e-2", "--save_steps", "1", "--keep_checkpoints", "9"),
    *("--sample_steps", "0", "--num_workers", "0", "--no_wandb", "--no_tensorboard", "--device", "cpu"),
    *("--stages", "{max_steps: 1}", "{max_steps: 2, buckets: [2x16x16, 4x32x32]}"),
    "{max_steps: 2, buckets: [native], pack: 900}",
]
VAE = [
    *("--kind", "vae", "--clips", "8", "--num_frames", "5", "--frame_size", "16", "--num_workers", "0"),
    *("--model_args", "{latent_channels: 4, block_out_channels: [32], encoder_layers: [1], decoder_layers: [1]}"),
    *("--measured_clips", "4", "--batch_size", "2", "--val_fraction", "0.25", "--val_samples", "2"),
    *("--adversarial_weight", "0.1", "--adversarial_start", "1", "--discriminator_width", "8", "--sample_steps", "0"),
    *("--save_steps", "1", "--keep_checkpoints", "9", "--no_wandb", "--no_tensorboard", "--device", "cpu"),
    *("--stages", "{max_steps: 2, num_frames: 1}", "{max_steps: 2, batch_size: 4}"),
]
ADAPTER = ["--lora", "--model_args", "{}", "--save_steps", "1", "--keep_checkpoints", "9"]


@pytest.mark.parametrize(("kind", "between"), [("packed", 3), ("vae", 2), ("adapter", 3)])
def test_buckets_packs_autoencoders_and_adapters_in_stages(kind, between, clips, tiny_model, tiny_flags, tmp_path):
    """They go on from the checkpoint between two stages as the unbroken run did."""
    adapter = [*flags_of(tiny_flags), *ADAPTER, "--init_from", str(tiny_model)]
    flags = {"packed": [*PACKED, "--data_dir", str(clips)], "vae": VAE, "adapter": adapter}[kind]
    run, again = tmp_path / "run", tmp_path / "again"
    train(config_of(flags, run))
    shutil.copytree(run, again)
    shutil.rmtree(again / "final")
    for step in Checkpoints(again, 9).steps():
        if step > between:
            shutil.rmtree(again / "checkpoints" / f"{step:06d}")
    train(config_of(flags, again), resume=True)
    steps = config_of(flags, run).in_stages[-1].run_steps
    assert sorted(rows(again)) == list(range(1, steps + 1))
    for key in ("train/loss", "val/loss", "lr"):
        assert rows(again, key) == rows(run, key)


@pytest.mark.slow
def test_two_processes_equal_one(tiny_flags, tmp_path):
    flags = flags_of(tiny_flags, "{frame_size: 8, max_steps: 2}", "{max_steps: 2}")
    flags += ["--model_args", "{}"]  # what dropout leaves out depends on how clips are dealt to processes
    train(config_of(flags, tmp_path / "one"))
    run_in_two(tmp_path / "two", [*flags, "--batch_size", "2"])
    assert rows(tmp_path / "one").keys() == rows(tmp_path / "two").keys()
    for step, loss in rows(tmp_path / "one").items():
        assert abs(loss - rows(tmp_path / "two")[step]) < 1e-5


@pytest.mark.slow
def test_killed_hard_then_resumed_equals_unbroken(unbroken, tmp_path):
    run, flags = unbroken
    killed = kill_and_resume(flags, tmp_path / "run", [0.8, 1.2, 1.6, 2.0])
    assert killed
    assert_same_run(tmp_path / "run", run)
