"""Presets: values that all others are laid over."""

import pytest

from text2video.config import RunConfig
from text2video.errors import UsageError
from text2video.values import PRESETS


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_a_configuration_that_yields_to_yaml_and_flags(preset, tmp_path):
    config = RunConfig.build({}, ["--preset", preset.stem])
    assert config != RunConfig()
    assert RunConfig.build({"train": {"batch_size": 3}}, ["--preset", preset.stem]).train.batch_size == 3
    own = RunConfig.build({"train": {"batch_size": 3}}, ["--preset", preset.stem, "--batch_size", "5"])
    assert own.train.batch_size == 5
    assert own.train.num_epochs == config.train.num_epochs
    written = tmp_path / "run.yaml"
    written.write_text(own.to_yaml(), encoding="utf-8")
    assert RunConfig.load(written) == own


def test_a_model_that_is_named_is_fine_tuned_with_the_values_of_its_recipe():
    config = RunConfig.build({}, ["--model", "somewhere"])
    assert str(config.train.init_from) == "somewhere"
    data, train = config.data, config.train
    assert (data.num_frames, data.size, data.fps) == (16, (512, 512), 24)
    assert (train.num_epochs, train.batch_size, train.gradient_checkpointing) == (100, 1, True)
    assert config.optim.learning_rate == 1e-5
    assert RunConfig.build({}, ["--model=x", "--preset", "lora"]).lora is not None
    assert RunConfig.build({"preset": "lora"}, ["--model", "x"]).lora is not None
    assert RunConfig.build({}, ["--init_from", "x"]).train.num_epochs == 1000


def test_a_model_that_was_trained_here_goes_on_without_a_preset(tmp_path):
    index = tmp_path / "run" / "final" / "model_index.json"
    index.parent.mkdir(parents=True)
    index.write_text('{"_class_name": "TextToVideoPipeline"}', encoding="utf-8")
    assert RunConfig.build({}, ["--model", str(tmp_path / "run")]).data.num_frames == 16
    assert RunConfig.build({}, ["--model", str(tmp_path / "run")]).data.fps is None


def test_a_finished_configuration_needs_no_preset_beside_it(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("train: {batch_size: 7}\n", encoding="utf-8")
    (tmp_path / "run.yaml").write_text(RunConfig.build({}, ["--preset", str(mine)]).to_yaml(), encoding="utf-8")
    mine.unlink()
    assert RunConfig.load(tmp_path / "run.yaml").train.batch_size == 7


def test_a_preset_can_be_a_file_and_an_unknown_one_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train: {batch_size: 7}\n", encoding="utf-8")
    assert RunConfig.build({}, ["--preset", str(file)]).train.batch_size == 7
    with pytest.raises(UsageError, match="Did you mean lora"):
        RunConfig.build({}, ["--preset", "lorra"])
