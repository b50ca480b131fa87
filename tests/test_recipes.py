"""The recipes in configs/: each can be planned for, fits where it says it does, and the small latent ones run."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from text2video.cli.main import run
from text2video.config import RunConfig
from text2video.models.video_tokenizer import VideoTokenizer
from text2video.models.video_vae import VideoVAE
from text2video.planner.facts import facts_of
from text2video.planner.plan import plan

CONFIGS = Path(__file__).parents[1] / "configs"
ONE_CARD = ("latent-unet-base.yaml", "transformer-base.yaml", "unet3d-base.yaml", "vae-base.yaml")  # of 24 GB
SMALL_ONES = ("latent-transformer-tiny", "latent-unet-tiny", "transformer-tiny", "transformer-packed-tiny")
SHORT = ["--max_steps", "2", "--batch_size", "2", "--num_workers", "0", "--sample_steps", "0", "--val_fraction", "0"]
SHORT += ["--save_steps", "100", "--device", "cpu", "--no_wandb", "--no_tensorboard"]


def recipe(path: Path, place: Path) -> RunConfig:
    """A recipe where a small codec is what it names, and no text encoder has to be downloaded."""
    config = RunConfig.load(path)
    if config.text.text_encoder != "builtin":
        config = RunConfig.load(path, ["--text_encoder", "builtin"])
    if codec := config.model.codec:
        if config.model.kind == "autoregressive":
            VideoTokenizer(block_out_channels=(8,), encoder_layers=(1,), decoder_layers=(1,)).save_pretrained(
                place / codec
            )
        else:
            VideoVAE(block_out_channels=(8,), encoder_layers=(1,), decoder_layers=(1,)).save_pretrained(place / codec)
    return config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_can_take_its_videos(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for stage in recipe(path, tmp_path).in_stages:
        facts = facts_of(stage.config)  # it checks the shape, on tensors without contents
        assert facts.trained
        assert facts.video == stage.config.data.shape or stage.config.data.buckets


@pytest.mark.parametrize("name", ONE_CARD)
def test_a_base_recipe_fits_one_card(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plan(recipe(CONFIGS / name, tmp_path), on_gpu=True).peak < 24e9


@pytest.fixture(scope="module")
def small_codec(tmp_path_factory) -> Path:
    """What `vae-tiny.yaml` makes in two steps."""
    place = tmp_path_factory.mktemp("codec")
    assert run(["train", str(CONFIGS / "vae-tiny.yaml"), *SHORT, "--output_dir", str(place / "run")]) == 0
    return place / "run" / "final" / "vae"


@pytest.mark.slow
@pytest.mark.parametrize("real", [False, True], ids=["shapes", "real"])
@pytest.mark.parametrize("name", SMALL_ONES)
def test_small_recipes_from_data_to_video(name, real, small_codec, tmp_path, request):
    values = YAML(typ="safe").load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    flags = [*SHORT, "--output_dir", str(tmp_path / "run")]
    if "codec" in values["model"]:
        flags += ["--codec", str(small_codec)]
    if real:
        clips = request.getfixturevalue("real_clips")
        values["data"] = {name: value for name, value in values["data"].items() if name not in ("shapes", "data_dir")}
        flags += ["--dataset_file", str(clips / "manifest.csv"), "--data_root", str(clips)]
    elif "data_dir" in values["data"]:
        assert run(["data", "shapes", str(tmp_path / "data"), "--clips", "4"]) == 0
        flags += ["--data_dir", str(tmp_path / "data")]
    file = tmp_path / "recipe.yaml"
    with file.open("w", encoding="utf-8") as out:
        YAML(typ="safe").dump(values, out)
    assert run(["train", str(file), *flags]) == 0
    command = ["generate", "--model", str(tmp_path / "run"), "--prompts", "a red circle rises", "--device", "cpu"]
    assert run([*command, "--num_inference_steps", "2", "--output_dir", str(tmp_path / "videos")]) == 0
    assert [*(tmp_path / "videos").glob("*.mp4")]
