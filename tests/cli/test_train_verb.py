"""`train`: flags over YAML, a dry run that writes nothing, resuming, and errors in words."""

import logging
import shutil

import pytest
from ruamel.yaml import YAML

from text2video.cli import dry_run
from text2video.config import FLAGS, RunConfig
from text2video.errors import TrainingError

# so small that no plan is said
SMALL = ("--model_channels", "16", "--frame_size", "16", "--num_frames", "4", "--text_width", "32", "--batch_size", "1")


def test_help_names_every_option_once_with_its_default(command):
    code, out, _ = command("train", "-h")
    assert code == 0
    flags = [word for line in out.splitlines() if line.startswith("  --") for word in line.split()[:1]]
    assert len(flags) == len(set(flags))
    known = FLAGS.names
    own = {"--resume", "--dry_run", "--help"}
    assert {known[flag[2:]] for flag in flags if flag not in own} == set(known.values())
    text = " ".join(out.split())
    assert "highest learning rate [0.0001]" in text
    assert "(also --epochs) [1000]" in text


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (["--learning-rat", "1"], "Did you mean --learning_rate"),
        (["--seed"], "--seed needs a value"),
        (["--num_frames", "0", "--shapes"], "data.num_frames is 0"),
        (["--prediction", "noise", "--shapes"], "'epsilon'"),
        (["nowhere.yaml"], "nowhere.yaml"),
        (["."], "--resume --output_dir ."),
        (["--resume"], "no run to resume in"),
        (["--resume", "--shapes", "--output_dir", "x"], "no run to resume in x"),
        ([], "No data was named"),
        (["--dry_run"], "No data was named"),
        (["--dry_run", "--shapes", "--model_args", "{pages: 3}"], "UNet3D cannot be made"),
    ],
)
def test_wrong_usage_is_one_paragraph(command, tmp_path, tokens, says):
    code, _, err = command("train", *tokens)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sed: 1\n", "There is no 'sed'. Did you mean seed?"),
        ("data: {num_frame: 8}\n", "There is no 'data.num_frame'. Did you mean num_frames"),
        ("seed: 1\nseed: 2\n", "line 2 is not valid YAML: found duplicate key"),
        ("seed: [1\n", "is not valid YAML"),
        ("- seed\n", "A configuration is a mapping"),
    ],
)
def test_wrong_yaml_is_one_paragraph(command, tmp_path, text, says):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    code, _, err = command("train", "a.yaml")
    assert code == 2
    assert says in err
    assert err.count("\n") == 1


def test_a_missing_data_folder_is_said_before_anything_is_planned(command, tmp_path):
    code, _, err = command("train", "--data_dir", "nowhere")
    assert (code, err.count("\n")) == (1, 1)
    assert "The data folder nowhere does not exist" in err


def test_data_without_captions_is_refused(command, tiny, tmp_path):
    shutil.copytree(tiny / "clips" / "videos", tmp_path / "data" / "videos")
    code, _, err = command("train", "--data_dir", "data")
    assert code == 1
    assert "data" in err
    (tmp_path / "data" / "captions.json").write_text("{}", encoding="utf-8")
    assert command("train", "--data_dir", "data").code == 1
    assert not (tmp_path / "runs").exists()


def test_dry_run_shows_what_would_be_and_writes_nothing(command, tiny, tmp_path):
    files = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    flags = ("--data-dir", tiny / "clips", "--output-dir", "x", "--num-epochs", 2, "--max_steps", "null")
    code, out, _ = command("train", tiny / "tiny.yaml", *flags, "--dry-run")
    assert code == 0
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == files
    assert not list(tmp_path.iterdir())
    # what is printed is a configuration
    config = RunConfig.build(YAML(typ="safe").load(out))
    assert config.train.num_epochs == 2
    assert config == RunConfig.load(tiny / "tiny.yaml", list(map(str, flags)))
    assert "# video: [2, 3, 8, 16, 16]" in out
    assert "M parameters, trained" in out
    assert "# steps an epoch: 2.5 (5 clips)" in out
    assert "# steps in all: 5" in out


def test_dry_run_refuses_a_shape_that_the_model_cannot_make(command, tiny):
    code, _, err = command("train", tiny / "tiny.yaml", "--shapes", "--data_dir", "null", "--width", 17, "--dry_run")
    assert code == 2
    assert "width 17" in err


def test_run_is_written_and_guarded(command, tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    assert (tiny / "run" / "final" / "model_index.json").is_file()
    assert RunConfig.load("run/run.yaml") == RunConfig.load("tiny.yaml")
    code, _, err = command("train", "tiny.yaml")
    assert code == 2
    assert "--resume" in err


def test_resume_goes_on_with_the_runs_own_configuration(command, tiny, tmp_path, monkeypatch):
    shutil.copytree(tiny / "run", tmp_path / "moved")
    shutil.copytree(tiny / "clips", tmp_path / "clips")
    code, out, err = command("train", "--resume", "--output_dir", "moved", "--max-steps", 4)
    assert code == 0
    assert "train.max_steps 3 -> 4" in err
    assert "output_dir" not in err
    assert out.strip().endswith("final")
    assert (tmp_path / "moved" / "checkpoints" / "000004").is_dir()
    assert RunConfig.load("moved/run.yaml").train.max_steps == 4
    # the same by its own YAML; there is nothing to say when nothing differs
    code, _, err = command("train", tiny / "tiny.yaml", "--resume", "--output_dir", "moved", "--max-steps", 4)
    assert code == 0
    assert "otherwise" not in err


def test_an_interrupted_run_says_how_to_go_on(command, tmp_path, monkeypatch):
    def interrupted(config, resume, *reports):
        config.output_dir.mkdir()
        (config.output_dir / "run.yaml").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("text2video.training.trainer.train", interrupted)
    code, _, err = command("train", "--shapes", "--output_dir", "x", *SMALL)
    assert code == 130
    assert err.splitlines() == ["The run goes on with: text2video train --resume --output_dir x", "stopped"]


def test_a_failed_run_says_why_once(command, monkeypatch):
    def failing(config, resume, *reports):
        logging.getLogger("text2video").warning("odd")
        logging.getLogger("text2video").error("The disk is full")
        raise TrainingError("The disk is full")

    monkeypatch.setattr("text2video.training.trainer.train", failing)
    code, _, err = command("train", "--shapes", *SMALL)
    assert (code, err.splitlines()) == (1, ["odd", "error: The disk is full"])


@pytest.mark.parametrize(
    ("kind", "size", "says"),
    [
        ("transformer", {"patch_size": [2, 4]}, "patch_size is 2 4: give three numbers"),
        ("unet3d", {"patch_size": [2, 4]}, "patch_size is 2 4: give three numbers"),
        ("transformer", {"text_interval": 0}, "text_interval is 0: give numbers above zero"),
        ("transformer", {"num_attention_heads": 0}, "num_attention_heads is 0"),
        ("transformer", {"num_layers": 0}, "num_layers is 0"),
        ("transformer", {"causal_block": -1}, "causal_block is -1"),
        ("transformer", {"in_channels": 4}, "in_channels of this model is 4, and videos have 3 channels"),
        ("latent_unet", {"channel_mult": [], "attention": []}, "channel_mult is"),
        ("unet3d", {"model_channels": 0}, "model_channels is 0"),
        ("vae", {"in_channels": 1}, "in_channels of this model is 1, and videos have 3"),
        ("vae", {"latent_channels": 2.5}, "VideoVAE cannot be made"),
        ("vae", {"latent_channels": 0}, "latent_channels is 0"),
        ("vae", {"encoder_layers": [-1, 2]}, "encoder_layers is [-1, 2]"),
        ("vae", {"block_out_channels": [0, 8]}, "block_out_channels is (0, 8)"),
    ],
)
def test_sizes_that_no_model_has_are_named_before_anything_is_done(command, tmp_path, kind, size, says):
    file = tmp_path / "wrong.yaml"
    with file.open("w", encoding="utf-8") as out:
        YAML(typ="safe").dump({"model": {"kind": kind, "model_args": size}}, out)
    video = ("--num_frames", "5", "--frame_size", "16", "--text_width", "32", "--text_layers", "1")
    code, _, error = command("train", str(file), "--shapes", *video[: 4 if kind == "vae" else 8], "--dry_run")
    assert code in (1, 2)
    assert says in error
    assert "Traceback" not in error


def test_frames_too_small_to_be_judged(command):
    judged = ("--adversarial_weight", "1", "--frame_size", "4", "--num_frames", "5")
    ratio = "{spatial_compression_ratio: 2, block_out_channels: [8], latent_channels: 4, "
    ratio += "encoder_layers: [1], decoder_layers: [1]}"
    code, _, error = command("train", "--kind", "vae", "--shapes", *judged, f"--model_args={ratio}", "--dry_run")
    assert code == 2
    assert "vae.adversarial_weight is for videos of at least 8 x 8 pixels, and these are 5x4x4" in error


def test_a_dry_run_of_a_large_model_makes_no_weights(command, monkeypatch):
    devices = []
    monkeypatch.setattr(dry_run, "parameters", lambda pipe: devices.append(pipe.transformer.device.type) or [])
    size = ("--kind", "transformer", "--size", "14B", "--num_frames", "4", "--frame_size", "16")
    assert command("train", "--shapes", *size, "--val_fraction", "0", "--dry_run")[0] == 0
    assert devices == ["meta"]
