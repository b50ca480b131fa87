"""A run is exact: resumed equals unbroken, however it was broken, and many processes equal one."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from two_processes import RUN, run_in_two

from text2video import video
from text2video.config import RunConfig
from text2video.diffusion.objectives import TextToVideoDiffusion
from text2video.diffusion.schedules import AutoFlow
from text2video.errors import DataError, TrainingError, UsageError
from text2video.families.opening import family_of, load, model_folder
from text2video.generation import Settings, generate
from text2video.training.checkpoint import Checkpoints
from text2video.training.trainer import Trainer, train


def losses(run: Path) -> dict[int, float]:
    """step -> training loss, each step once."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert len(found) == len(dict(found)), "a step stands twice in metrics.jsonl"
    return dict(found)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "unet" / "diffusion_pytorch_model.safetensors")


def assert_same_run(run: Path, other: Path) -> None:
    assert losses(run) == losses(other)
    for name, value in weights(other).items():
        assert torch.equal(weights(run)[name], value), name


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, tiny_flags):
    """A finished run, and the command line that repeats it elsewhere."""
    flags = [*tiny_flags, "--num_workers", "1", "--max_steps", "6", "--model_args", "{dropout: 0.1}"]
    run = tmp_path_factory.mktemp("unbroken") / "run"
    train(RunConfig.build({}, [*flags, "--output_dir", str(run)]))
    return run, flags


def test_the_run_folder_holds_what_it_should(unbroken):
    run, _ = unbroken
    assert sorted(losses(run)) == list(range(1, 7))
    assert RunConfig.load(run / "run.yaml").output_dir == run
    assert (run / "last").read_text() == "checkpoints/000006\n"
    assert Checkpoints(run, 3).best() in (3, 6)
    assert "parameters train on cpu" in (run / "training.log").read_text()
    assert not list(run.rglob("tmp-*"))


def test_run_yaml_repeats_the_run(unbroken, tmp_path):
    run, _ = unbroken
    train(RunConfig.load(run / "run.yaml", ["--output_dir", str(tmp_path / "again")]))
    assert_same_run(tmp_path / "again", run)


def test_resumed_equals_unbroken_with_other_workers(unbroken, tmp_path, monkeypatch):
    run, flags = unbroken
    monkeypatch.setattr("text2video.training.trainer.Trainer.is_best", interrupt_after(2))
    with pytest.raises(KeyboardInterrupt):
        train(RunConfig.build({}, [*flags, "--output_dir", str(tmp_path / "run"), "--num_workers", "0"]))
    monkeypatch.undo()
    assert Checkpoints(tmp_path / "run", 3).steps()[-1] == 3
    train(RunConfig.build({}, [*flags, "--output_dir", str(tmp_path / "run")]), resume=True)
    assert_same_run(tmp_path / "run", run)


def interrupt_after(step):
    """Stands in for `is_best`, which is asked after every step: presses Ctrl-C once."""

    def is_best(trainer, done):
        if done == step:
            signal.raise_signal(signal.SIGINT)
        return False

    return is_best


def kill_and_resume(flags: list[str], run: Path, moments: list[float]) -> int:
    """Start the run, kill it hard after each of the moments (seconds of its own work), resume; how often killed."""
    command = [sys.executable, "-c", RUN, str(run), *flags]
    killed = 0
    for moment in [*moments, None]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if moment is not None:
            process.stdout.readline()  # it says when imports are done
            time.sleep(moment)
            process.kill()
            killed += process.wait() != 0
            process.communicate()
        else:
            _, errors = process.communicate()
            assert process.returncode == 0, errors
    return killed


def test_killed_hard_then_resumed_equals_unbroken(unbroken, tmp_path):
    run, flags = unbroken
    assert kill_and_resume(flags, tmp_path / "run", [0.8, 1.6]) >= 1
    assert_same_run(tmp_path / "run", run)


@pytest.mark.slow
def test_killed_a_hundred_times_at_random_moments(unbroken, tmp_path):
    run, flags = unbroken
    moments = random.Random(0)
    killed, round_ = 0, 0
    while killed < 100:
        killed += kill_and_resume(flags, tmp_path / f"run{round_}", [moments.uniform(0, 1) for _ in range(5)])
        assert_same_run(tmp_path / f"run{round_}", run)
        round_ += 1


def test_two_processes_equal_one(tmp_path, tiny_flags):
    """The same global batch of 4, shared by two processes over gloo, in two micro-steps of one clip each."""
    one, two = tmp_path / "one", tmp_path / "two"
    train(RunConfig.build({}, [*tiny_flags, "--output_dir", str(one), "--max_steps", "4", "--sample_steps", "4"]))
    flags = [
        *tiny_flags,
        "--max_steps",
        "4",
        "--sample_steps",
        "4",
        "--batch_size",
        "1",
        "--gradient_accumulation_steps",
        "2",
    ]
    run_in_two(two, flags)
    assert losses(one).keys() == losses(two).keys()
    for step, loss in losses(one).items():
        assert abs(loss - losses(two)[step]) < 1e-5
    names = [sorted(path.name for path in (run / "samples" / "000004").iterdir()) for run in (one, two)]
    assert names[0] == names[1]
    assert len(names[0]) == 3  # every validation clip once, shared among the processes


def test_gradient_accumulation_equals_the_larger_batch(tiny, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny("--max_steps", "3", output_dir=whole))
    train(tiny("--max_steps", "3", "--batch_size", "2", "--gradient_accumulation_steps", "2", output_dir=parts))
    for step, loss in losses(whole).items():
        assert abs(loss - losses(parts)[step]) < 1e-5


def test_preview_equals_generate_bit_for_bit(tiny, tmp_path):
    """The last preview, from memory, and the same prompt and seed from the saved folder."""
    config = tiny("--sample_steps", "6", "--sample_prompts", "a red circle moves left", "--seed", "7")
    final = train(config)
    (preview,) = (tmp_path / "run" / "samples" / "000006").glob("*.mp4")
    pipe = load(final)
    (result,) = generate(family_of(final), pipe, ["a red circle moves left"], Settings(seed=7))
    video.write(tmp_path / "again.mp4", result.frames, result.fps)
    assert (video.read(preview).frames == video.read(tmp_path / "again.mp4").frames).all()


def test_init_from_starts_a_new_run_from_weights(tiny_model, tiny, tmp_path):
    config = tiny("--init_from", str(tiny_model), "--max_steps", "1", "--learning_rate", "1e-12", "--ema_decay", "0")
    train(config)
    before = load_file(tiny_model / "unet" / "diffusion_pytorch_model.safetensors")
    for name, value in weights(tmp_path / "run").items():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shift", ["3", "auto"])
def test_a_run_from_weights_trains_with_their_shift_and_samples_with_the_samplers(shift, tiny, tmp_path):
    steps = ("--sampling_shift", "1.5", "--scheduler", "flow", "--max_steps", "1")
    final = train(
        tiny("--schedule", "flow", "--prediction", "flow", "--shift", shift, *steps, output_dir=tmp_path / "first")
    )
    trainer = Trainer(tiny("--init_from", str(final), "--max_steps", "1"))
    schedule = trainer.objective.schedule
    assert isinstance(schedule, AutoFlow) if shift == "auto" else schedule.shift == 3
    trainer.run()
    assert load(tmp_path / "run").scheduler.config["shift"] == 1.5
    assert load(tmp_path / "run").config["training_shift"] == ("auto" if shift == "auto" else 3)


def test_a_trained_text_encoder_learns_on_unless_it_is_frozen(tiny_model, tiny, tmp_path):
    def words(final: Path) -> dict[str, torch.Tensor]:
        return load_file(next((final / "text_encoder").glob("*.safetensors")))

    before = words(tiny_model)
    for name, flags in (("learns", ()), ("frozen", ("--frozen",))):
        config = tiny("--text_encoder", str(tiny_model), "--max_steps", "2", *flags, output_dir=tmp_path / name)
        trainer = Trainer(config)
        assert ("text_encoder" in trainer.parts) == (name == "learns")
        assert trainer.run()
        after = words(config.output_dir / "final")
        assert all(torch.equal(after[key], before[key]) for key in before) == (name == "frozen")
        (result,) = generate(family_of(config.output_dir / "final"), load(config.output_dir), ["a"])
        assert len(result.frames) == 4


def test_a_frozen_encoder_reads_the_same_in_a_resumed_run(tiny_model, tiny, tmp_path):
    def run(name: str, *flags: str, resume: bool = False) -> None:
        train(tiny("--text_encoder", str(tiny_model), "--frozen", *flags, output_dir=tmp_path / name), resume=resume)

    rest = ("--max_steps", "4", "--num_epochs", "4", "--lr_schedule", "constant")
    run("whole", *rest)
    run("stopped", *rest[2:], "--max_steps", "2")
    run("stopped", *rest, resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_checkpoint_and_a_stopped_run_can_generate(unbroken):
    run, _ = unbroken
    for path in (run / "checkpoints" / "000006", run / "checkpoints" / "000006" / "model", run):
        assert load(path, device="cpu").config["num_frames"] == 4
    assert model_folder(run) == run / "final"
    assert model_folder(run / "checkpoints" / "000006") == run / "checkpoints" / "000006" / "model"


def test_a_resume_that_does_not_fit_changes_nothing(unbroken, tmp_path):
    run, flags = unbroken
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = (copy / "run.yaml").read_text()
    with pytest.raises(TrainingError, match="does not fit"):
        train(RunConfig.build({}, [*flags, "--output_dir", str(copy), "--model_channels", "32"]), resume=True)
    assert (copy / "run.yaml").read_text() == before


def test_a_resumed_run_takes_new_options_and_keeps_its_vocabulary(unbroken, tmp_path):
    run, flags = unbroken
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "tmp-notes").mkdir()  # somebody else's
    config = RunConfig.build({}, [*flags, "--output_dir", str(copy), "--max_steps", "8", "--clips", "9"])
    config.optim.learning_rate, config.optim.weight_decay = 1e-6, 0.5
    trainer = Trainer(config)
    trainer.run()
    groups = trainer.optimizers["denoiser"].param_groups
    assert [(group["peak_lr"], group["weight_decay"]) for group in groups] == [(1e-6, 0.5), (1e-6, 0.0)]
    first, second = (load(folder, device="cpu").tokenizer.get_vocab() for folder in (run, copy))
    assert first == second
    assert (copy / "tmp-notes").is_dir()


def test_fp16_without_a_gpu_is_refused(tiny):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UsageError, match="needs an NVIDIA GPU"):
        train(tiny("--mixed_precision", "fp16"))


def test_an_old_run_is_never_overwritten(unbroken):
    run, flags = unbroken
    with pytest.raises(UsageError, match="--resume"):
        train(RunConfig.build({}, [*flags, "--output_dir", str(run)]))


class Diverges(TextToVideoDiffusion):
    """Gives a loss that is not a number in its fifth call."""

    calls = 0

    def loss(self, predict, batch, player="denoiser"):
        type(self).calls += 1
        return super().loss(predict, batch, player) * (float("nan") if type(self).calls == 5 else 1)


def test_nan_stops_the_run_and_names_the_last_good_checkpoint(tiny, tmp_path):
    config = tiny("--objective", "test_trainer:Diverges", "--log_steps", "1", "--eval_steps", "100")
    with pytest.raises(TrainingError, match=r"not a number at step 5\. .*000004"):
        train(config)
    assert Checkpoints(tmp_path / "run", 3).steps()[-1] == 4
    assert not (tmp_path / "run" / "final").exists()


def test_a_run_that_is_longer_already_says_so(unbroken, tiny, tmp_path, caplog):
    shutil.copytree(unbroken[0], tmp_path / "run")
    train(tiny("--model_args", "{dropout: 0.1}", "--max_steps", "2"), resume=True)
    assert "has made 6 steps already, more than the 2" in caplog.text


def test_a_failed_validation_loses_no_step(tiny, tmp_path, monkeypatch):
    def fail(*_):
        raise DataError("the validation clips have gone")

    monkeypatch.setattr("text2video.training.trainer.validation_loss", fail)
    with pytest.raises(DataError, match="have gone"):
        train(tiny("--save_steps", "9"))  # validates after 3
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000003"]
    monkeypatch.undo()
    train(tiny("--save_steps", "9"), resume=True)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows if "val/loss" in row] == [3, 6]


def test_a_full_disk_keeps_what_was_saved(tiny, tmp_path, monkeypatch):
    def full(tensors, path):
        if "000004" in str(path):
            raise OSError(28, "No space left on device")
        from safetensors.torch import save_file

        save_file(tensors, path)

    monkeypatch.setattr("text2video.training.checkpoint.save_file", full)
    with pytest.raises(TrainingError, match="No space left"):
        train(tiny("--eval_steps", "100"))
    assert Checkpoints(tmp_path / "run", 3).steps() == [2]
    assert not list((tmp_path / "run").rglob("tmp-*"))


def test_bf16_and_gradient_checkpointing_and_min_snr_train(tiny, tmp_path):
    flags = ("--mixed_precision", "--gradient_checkpointing", "--weighting", "min_snr", "--prediction", "v")
    train(tiny(*flags, "--max_steps", "2"))
    assert all(loss > 0 for loss in losses(tmp_path / "run").values())


def test_augmented_files_train(tmp_path, tiny):
    from text2video.data import shapes

    shapes.write(tmp_path / "data", 8, size=32, num_frames=6)
    values = tiny().model_dump(mode="json")
    values["data"] |= {"shapes": None, "data_dir": str(tmp_path / "data"), "augment": True, "fps": 4}
    train(RunConfig.model_validate(values))
    log = (tmp_path / "run" / "training.log").read_text()
    assert "clips to train on" in log
