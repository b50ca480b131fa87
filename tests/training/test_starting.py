"""What a run that starts from a model says of it: what the model decides is refused where it is told otherwise."""

import pytest

from text2video.cli.dry_run import describe
from text2video.cli.train import said_of_resuming
from text2video.config import RunConfig
from text2video.errors import UsageError
from text2video.training.starting import first_of
from text2video.training.trainer import Trainer, train


@pytest.fixture(scope="module")
def flowing(tmp_path_factory, tiny_flags):
    """A model that differs from the defaults in all that a model decides."""
    flags = ["--schedule", "flow", "--prediction", "flow", "--shift", "3", "--sampling_shift", "2", "--max_steps", "1"]
    flags += ["--scheduler", "flow", "--guidance_interval", "0.2", "0.9"]
    return train(RunConfig.build({}, [*tiny_flags, *flags, "--output_dir", str(tmp_path_factory.mktemp("f") / "run")]))


@pytest.fixture
def short(flowing, tmp_path):
    """A function that makes a configuration which says as little as it can of the model that it starts from."""
    run = ["--clips", "8", "--num_frames", "4", "--frame_size", "16", "--batch_size", "4", "--num_workers", "0"]
    run += ["--max_steps", "1", "--sample_steps", "0", "--val_samples", "2", "--no_wandb", "--no_tensorboard"]
    run += ["--device", "cpu", "--output_dir", str(tmp_path / "run")]
    return lambda *flags: RunConfig.build({}, ["--init_from", str(flowing), *run, *flags])


def test_run_yaml_and_the_dry_run_say_what_the_model_is(short, tmp_path):
    config = short()
    assert (config.diffusion.schedule, config.model.model_channels) == ("cosine", 128)
    train(config)
    found = RunConfig.load(tmp_path / "run" / "run.yaml")
    assert found.diffusion.model_dump(include={"schedule", "prediction", "shift"}) == {
        "schedule": "flow",
        "prediction": "flow",
        "shift": 3.0,
    }
    assert (found.model.model_channels, found.model.attention, found.text.text_width) == (16, ["time", "full"], 32)
    assert (found.preview.sampling_shift, found.preview.guidance_interval) == (2.0, (0.2, 0.9))
    assert found.to_yaml() in describe(config)
    assert Trainer(found).run_config == found  # it can be repeated
    assert said_of_resuming(config) == ""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--prediction", "v", "--schedule", "linear"), "schedule is linear, there flow; diffusion.prediction is v"),
        (("--shift", "5"), "shift is 5.0, there 3.0"),
        (("--model_channels", "32"), "model_channels is 32, there 16"),
        (("--text_width", "64"), "text_width is 64, there 32"),
        (("--kind", "transformer", "--size", "5M"), "kind is transformer, there unet3d"),
        (("--model_args", "{pages: 4}"), "model_args is {'pages': 4}, there {}"),
        (("--sampling_shift", "4"), "sampling_shift is 4.0, there 2.0"),
        (("--guidance_interval", "0", "1"), r"guidance_interval is \(0.0, 1.0\), there \(0.2, 0.9\)"),
    ],
)
def test_what_is_otherwise_is_refused(short, flags, words):
    with pytest.raises(UsageError, match=f"stays what it was made as.*{words}"):
        Trainer(short(*flags))


def test_what_is_the_same_may_be_said(short):
    Trainer(short("--prediction", "flow", "--shift", "3", "--model_channels", "16", "--sampling_shift", "2"))


@pytest.mark.parametrize(
    "recipe",
    [
        {"kind": "latent_unet", "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1},
        {"kind": "transformer", "size": "5M", "model_args": {"num_layers": 1, "mlp_ratio": 2.0}},
        {"kind": "transformer", "model_args": {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 16}},
        {"kind": "vae", "model_args": {"block_out_channels": [8, 8], "latent_channels": 4}},
    ],
    ids=["latent_unet", "named size", "numbers", "vae"],
)
def test_a_recipe_its_run_yaml_and_nothing_all_fit_its_own_model(recipe, codecs, tmp_path):
    run = {"num_frames": 5, "frame_size": 16, "shapes": {"clips": 6}, "num_workers": 0, "val_fraction": 0}
    train_for = {"max_steps": 1, "batch_size": 2, "device": "cpu"}
    quiet = {"preview": {"sample_steps": 0}, "tracking": {"no_wandb": True, "no_tensorboard": True}}
    if recipe["kind"] == "latent_unet":
        recipe = recipe | {"codec": str(codecs("VideoVAE")), "attention": ["none", "none"]}
    values = {"data": run, "train": train_for, "model": recipe, **quiet}
    final = train(RunConfig.build(values | {"output_dir": str(tmp_path / "first")}))
    again = train_for | {"init_from": str(final)}
    for name, model in (("recipe", recipe), ("bare", {})):
        given = values | {"model": model, "train": again, "output_dir": str(tmp_path / name)}
        trainer = Trainer(RunConfig.build(given))
        written = RunConfig.build(trainer.run_config.model_dump(mode="json"))
        assert Trainer(written).run_config == written
        whole = RunConfig.build(values | {"model": written.model.model_dump(), "output_dir": str(tmp_path / "new")})
        sizes = [
            {name: value.shape for name, value in first_of(t.family, t.pipe).state_dict().items()}
            for t in (trainer, Trainer(whole))
        ]
        assert sizes[0] == sizes[1], name  # it says the whole architecture


def test_more_steps_than_timesteps_are_refused_before_training(short):
    with pytest.raises(UsageError, match="num_inference_steps is 60, and the model has 50 timesteps"):
        RunConfig.build({}, ["--num_timesteps", "50", "--num_inference_steps", "60"])
    with pytest.raises(UsageError, match="num_inference_steps is 2000, and the model has 1000"):
        Trainer(short("--num_inference_steps", "2000"))


@pytest.mark.parametrize("kind", ["vae", "tokenizer", "autoregressive", "vgan"])
def test_what_denoises_nothing_takes_no_noise(kind):
    with pytest.raises(UsageError, match=f"{kind} denoises nothing: leave out diffusion.prediction"):
        RunConfig.build({}, ["--kind", kind, "--prediction", "v"])
