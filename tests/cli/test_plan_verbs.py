"""`plan`, `doctor`, and the first lines of `train`."""

import logging

import pytest

from text2video.cli import plan_short
from text2video.cli.main import run
from text2video.config import RunConfig

RUN = [
    *("--shapes", "--clips", "50", "--num_frames", "8", "--frame_size", "32", "--model_channels", "32"),
    *("--channel_mult", "1", "2", "--attention", "none", "none", "--downsample_time", "false", "--val_fraction", "0"),
    *("--num_res_blocks", "1", "--text_width", "32", "--sample_steps", "0", "--num_epochs", "2", "--device", "cpu"),
]


def test_a_plan_for_this_machine_says_memory_disk_and_time(capsys):
    assert run(["plan", *RUN]) == 0
    shown = capsys.readouterr().out
    for words in ("activations", "gradients", "optimiser", "main memory", "disk: 1 checkpoint", "25 steps, 50 clips"):
        assert words in shown
    assert "on this CPU" in shown


def test_what_fits_into_so_much_memory(capsys):
    assert run(["plan", *RUN, "--batch_size", "8", "--vram", "750MB"]) == 0
    shown = capsys.readouterr().out
    assert "It does not fit into 0.75 GB as it is." in shown
    assert "--batch_size 1 --gradient_accumulation_steps 8" in shown
    assert "RTX 4090" in shown
    assert run(["plan", *RUN, "--card", "rtx 4090"]) == 0
    shown = capsys.readouterr().out
    assert "on RTX 4090" in shown
    assert "It fits into 24.00 GB as it is." in shown


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--vram"], "--vram needs a value"),
        (["--vram", "much"], "'much' is no amount of memory"),
        (["--card", "abacus"], "no card 'abacus'"),
        (["--clips", "some"], "--clips is 'some'"),
        (["--learning_rat", "1"], "Did you mean --learning_rate"),
    ],
)
def test_wrong_options_are_said(flags, said, capsys):
    assert run(["plan", *RUN, *flags]) == 2
    assert said in capsys.readouterr().err


def test_train_says_what_it_will_take_and_what_would_fit(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "text2video")
    config = RunConfig.build({}, [*RUN, "--batch_size", "8"])
    plan_short.announce(config)
    assert "planned: " in caplog.text
    assert "fit" not in caplog.text
    caplog.clear()
    monkeypatch.setattr(plan_short, "free_memory", lambda on_gpu: 0.9e9)
    plan_short.announce(config)
    assert "This run will probably not fit" in caplog.text
    assert "With --" in caplog.text or "Nothing that was tried fits" in caplog.text


def test_train_says_nothing_of_tiny_runs_and_goes_on_where_it_cannot_plan(tiny_flags, caplog, tmp_path, monkeypatch):
    caplog.set_level(logging.INFO, "text2video")
    plan_short.announce(RunConfig.build({}, tiny_flags))
    plan_short.announce(RunConfig.build({}, [*tiny_flags, "--codec", str(tmp_path / "nowhere")]))  # the run says it
    assert "plan" not in caplog.text

    def untraceable(config):
        raise RuntimeError("a tensor without contents was asked for them")

    monkeypatch.setattr("text2video.planner.facts.facts_of", untraceable)
    plan_short.announce(RunConfig.build({}, tiny_flags))
    assert "could not be planned, as its model could not be traced (RuntimeError" in caplog.text


def test_doctor_says_what_is_here_and_what_is_missing(capsys):
    assert run(["doctor"]) == 0
    shown = capsys.readouterr().out
    for words in ("Python", "torch ", "RAM", "GB free", "reads MP4", "torch.compile", "[datasets]", "CPU in bf16"):
        assert words in shown
