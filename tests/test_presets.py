"""Presets: values that all others are laid over."""

import pytest

from text2video.config import PRESETS, RunConfig
from text2video.errors import UsageError


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_a_configuration_that_yields_to_yaml_and_flags(preset, tmp_path):
    config = RunConfig.build({}, ["--preset", preset.stem])
    assert config.preset == preset.stem
    assert RunConfig.build({"train": {"batch_size": 3}}, ["--preset", preset.stem]).train.batch_size == 3
    own = RunConfig.build({"train": {"batch_size": 3}}, ["--preset", preset.stem, "--batch_size", "5"])
    assert own.train.batch_size == 5
    assert own.train.num_epochs == config.train.num_epochs
    written = tmp_path / "run.yaml"
    written.write_text(own.to_yaml(), encoding="utf-8")
    assert RunConfig.load(written) == own


def test_a_model_that_is_named_is_fine_tuned_with_the_values_of_its_recipe():
    config = RunConfig.build({}, ["--model", "somewhere"])
    assert (config.preset, str(config.train.init_from)) == ("finetune", "somewhere")
    data, train = config.data, config.train
    assert (data.num_frames, data.size, data.fps) == (16, (512, 512), 24)
    assert (train.num_epochs, train.batch_size, train.gradient_checkpointing) == (100, 1, True)
    assert config.optim.learning_rate == 1e-5
    assert RunConfig.build({}, ["--model=x", "--preset", "lora"]).lora is not None
    assert RunConfig.build({"preset": "lora"}, ["--model", "x"]).preset == "lora"
    assert RunConfig.build({}, ["--init_from", "x"]).preset is None


def test_a_preset_can_be_a_file_and_an_unknown_one_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train: {batch_size: 7}\n", encoding="utf-8")
    assert RunConfig.build({}, ["--preset", str(file)]).train.batch_size == 7
    with pytest.raises(UsageError, match="Did you mean lora"):
        RunConfig.build({}, ["--preset", "lorra"])
