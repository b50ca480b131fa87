"""What a stage may set, and what a run of stages is."""

import pytest

from text2video.cli.main import run
from text2video.config import RunConfig
from text2video.errors import UsageError

SHAPES = {"shapes": {"clips": 8}, "height": 24, "num_frames": 4}


def staged(*stages, flags=(), **values):
    return RunConfig.build({"data": SHAPES, "stages": list(stages), **values}, flags)


def test_each_stage_lays_its_fields_over_the_run():
    config = staged({"frame_size": 16, "batch_size": 8, "max_steps": 3}, {"max_steps": 5, "learning_rate": 1e-3})
    first, second = config.in_stages
    assert (first.first, second.first, first.run_steps, second.run_steps) == (0, 3, 8, 8)
    assert first.config.data.size == (16, 16), "a stage's frame_size stands for the height, too"
    assert second.config.data.size == (24, 64)
    assert (first.config.train.batch_size, second.config.train.batch_size) == (8, 4)
    assert (first.config.optim.learning_rate, second.config.optim.learning_rate) == (1e-4, 1e-3)
    assert not first.config.stages
    assert [[stage.has(step) for stage in config.in_stages] for step in (0, 2, 3, 8)] == [
        [True, True],
        [True, True],
        [False, True],
        [False, True],
    ]
    (whole,) = RunConfig().in_stages
    assert whole.config == RunConfig()
    assert whole.has(10**6)
    assert not whole.in_words()


def test_a_run_of_stages_is_written_and_read(tmp_path):
    config = staged({"max_steps": 3, "buckets": ["4x16x16"]}, {"max_steps": 1}, data={"data_dir": "data"})
    (tmp_path / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert RunConfig.load(tmp_path / "run.yaml") == config
    line = ["--stages", "{max_steps: 3, frame_size: 16}", "{max_steps: 1}"]
    assert [stage["max_steps"] for stage in RunConfig.build({}, line).stages] == [3, 1]


@pytest.mark.parametrize(
    ("stages", "flags", "says"),
    [
        ([{"frame_size": 16}], [], "Stage 1 of 1: A stage has no max_steps"),
        ([{"max_steps": 1}, {"max_steps": 1, "frame_sise": 8}], [], "Stage 2 of 2: .* Did you mean frame_size"),
        ([{"max_steps": 1, "model_channels": 8}], [], "cannot set 'model_channels'.* one model"),
        ([{"max_steps": 1, "frame_size": -8}], [], "Stage 1 of 1: data.frame_size is -8"),
        ([{"max_steps": 0}], [], "train.max_steps is 0"),
        ([{"max_steps": 1, "pack": 99}], [], "Stage 1 of 1: data.pack"),
        ([{"max_steps": 1}], ["--max_steps", "4"], "train.max_steps does not go with stages"),
        ([{"max_steps": 1}], ["--num_epochs", "4"], "--num_epochs would change nothing"),
        ([{"max_steps": 1, "frame_size": 8}], ["--height", "8"], "--height would change nothing"),
    ],
)
def test_what_a_stage_may_not_do_is_said(stages, flags, says):
    with pytest.raises(UsageError, match=says) as raised:
        staged(*stages, flags=flags)
    assert "\n" not in str(raised.value)
    assert ".." not in str(raised.value)


def test_dry_run_and_plan_say_it_of_each_stage(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = ["--shapes", "--clips", "8", "--num_frames", "4", "--frame_size", "16", "--model_channels", "16"]
    line += ["--channel_mult", "1", "2", "--attention", "none", "none", "--downsample_time", "false", "--batch_size"]
    line += ["2", "--text_width", "32", "--text_layers", "1", "--sample_steps", "0", "--device", "cpu"]
    line += ["--stages", "{frame_size: 8, num_frames: 2, max_steps: 3}", "{max_steps: 5}"]
    assert run(["train", *line, "--dry_run"]) == 0
    out = capsys.readouterr().out
    first, second = out.split("# stage 2 of 2, steps 4 to 8")
    assert "# video: [2, 3, 2, 8, 8]" in first
    assert "# steps in all: 3" in first
    assert "# video: [2, 3, 4, 16, 16]" in second
    assert "# steps in all: 5" in second
    assert run(["plan", *line]) == 0
    out = capsys.readouterr().out
    assert "stage 1 of 2, steps 1 to 3: 2x8x8" in out
    assert "(5 steps, 8 clips" in out
    assert "all stages together: " in out
    assert not list(tmp_path.iterdir())
