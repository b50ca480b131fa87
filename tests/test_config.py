"""The run configuration: YAML, flags and Python mean the same, and every mistake is named."""

from pathlib import Path
from typing import get_origin

import pytest

from text2video.config import ALIASES, BARE, FLAGS, RunConfig
from text2video.errors import UsageError
from text2video.sections import ShapesConfig
from text2video.values import PRESETS

REPOSITORY = Path(__file__).parents[1]
SHIPPED = sorted([*REPOSITORY.glob("configs/*.yaml"), *REPOSITORY.glob("src/text2video/assets/*.yaml")])
OTHER = {  # a value of each kind that is not the default
    "data.data_dir": "dätä/with spaces",
    "data.caption_file": "no",
    "data.fps": 7.5,
    "model.channel_mult": [1, 1.5, 2],
    "model.attention": ["none", "time", "full"],
    "model.model_args": {"dropout": 0.1, "names": ["a", "b"]},
    "model.downsample_time": [True, False],
    "optim.learning_rate": 3e-4,
    "optim.betas": [0.8, 0.95],
    "train.mixed_precision": "no",
    "train.max_steps": 7,
    "train.compile": True,
    "train.init_from": "null.d/x",
    "preview.sample_prompts": ["a red square", "16:9", "no", "null", "1e-4", "- x: y"],
    "preview.scheduler": "dpm++",
}


def nested(values):
    built: dict = {}
    for name, value in values.items():
        section, _, last = name.rpartition(".")
        (built.setdefault(section, {}) if section else built)[last] = value
    return built


def wrong(*flags, **values):
    with pytest.raises(UsageError) as raised:
        RunConfig.build(values, flags)
    message = str(raised.value)
    assert "\n" not in message
    assert "pydantic" not in message.lower()
    return message


def test_every_field_is_described_and_has_a_default():
    for name, field in FLAGS.fields.items():
        if name != "data.shapes":
            assert not field.is_required(), name
        assert field.description, name
        assert not field.description.endswith("."), name
    assert RunConfig() == RunConfig.build({})


def test_every_field_is_a_flag_by_its_dotted_name_and_by_its_last_where_that_is_unique():
    names, known = list(FLAGS.fields), FLAGS.names
    last = [name.rsplit(".", 1)[-1] for name in names]
    assert all(known[name] == name for name in names)
    for name, short in zip(names, last, strict=True):
        assert (known.get(short) == name) == (last.count(short) == 1)
    assert set(ALIASES.values()) | set(BARE) <= set(names)
    assert not set(ALIASES) & set(last), "an alias must not hide a field"


def test_yaml_round_trip_keeps_every_value(tmp_path):
    file = tmp_path / "run.yaml"
    for config in (RunConfig(), RunConfig.build(nested(OTHER)), RunConfig.build({}, ["--shapes", "--seed=3"])):
        file.write_text(config.to_yaml(), encoding="utf-8")
        assert RunConfig.load(file) == config
    written = file.read_text(encoding="utf-8")
    assert all(
        name.rsplit(".", 1)[-1] + ":" in written
        for name in FLAGS.fields
        if not name.startswith(("data.shapes.", "lora."))
    )


def test_flags_mean_what_yaml_means():
    tokens = []
    kinds = FLAGS.fields
    for name, value in OTHER.items():
        if get_origin(kinds[name].annotation) in (list, tuple):
            tokens += [f"--{name}", *map(str, value)]
        else:
            tokens.append(f"--{name}={value}")
    tokens = [token.replace("True", "true").replace("False", "false") for token in tokens]
    assert RunConfig.build({}, tokens) == RunConfig.build(nested(OTHER))


@pytest.mark.parametrize(
    ("tokens", "name", "value"),
    [
        (["--learning_rate", "1e-4"], "optim.learning_rate", 1e-4),
        (["--learning-rate=1e-4"], "optim.learning_rate", 1e-4),
        (["--optim.learning-rate", "1e-4"], "optim.learning_rate", 1e-4),
        (["--epochs", "3"], "train.num_epochs", 3),
        (["--video_length", "9"], "data.num_frames", 9),
        (["--augment"], "data.augment", True),
        (["--augment", "false"], "data.augment", False),
        (["--mixed_precision"], "train.mixed_precision", "bf16"),
        (["--mixed_precision", "no"], "train.mixed_precision", "no"),
        (["--fps", "null"], "data.fps", None),
        (["--scheduler", "null"], "preview.scheduler", None),
        (["--data_dir", "null"], "data.data_dir", None),
        (["--data_dir", "01"], "data.data_dir", "01"),
        (["--caption_prefix", "16:9"], "data.caption_prefix", "16:9"),
        (["--caption_prefix", "null"], "data.caption_prefix", "null"),
        (["--caption_prefix="], "data.caption_prefix", ""),
        (["--guidance_scale", "-0.5"], "preview.guidance_scale", -0.5),
        (["--attention", "none", "full"], "model.attention", ["none", "full"]),
        (["--attention", "[none, full]"], "model.attention", ["none", "full"]),
        (["--sample_prompts", "a b", "1"], "preview.sample_prompts", ["a b", "1"]),
        (["--model_args", "{dropout: 0.1}"], "model.model_args", {"dropout": 0.1}),
        (["--seed", "1", "--seed", "2"], "seed", 2),
    ],
)
def test_how_flags_are_read(tokens, name, value):
    assert FLAGS.parse(tokens) == {name: value}
    RunConfig.build({}, tokens)


def test_the_demo_world_by_flags_in_any_order():
    for tokens in (["--shapes", "--clips", "5"], ["--clips", "5", "--shapes"], ["--clips", "5"]):
        config = RunConfig.build({}, tokens)
        assert config.data.shapes is not None
        assert config.data.shapes.clips == 5
    # a bare --shapes asks for what the YAML has, and null takes it away; neither changes what was given
    values = {"data": {"shapes": {"clips": 7}}}
    for tokens, shapes in ((["--shapes"], ShapesConfig(clips=7)), (["--shapes", "null"], None)):
        assert RunConfig.build(values, tokens).data.shapes == shapes
        assert values == {"data": {"shapes": {"clips": 7}}}


def test_flags_are_laid_over_yaml_and_change_nothing_else(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("seed: 4\ndata: {num_frames: 8, fps: 8}\noptim:\n", encoding="utf-8-sig")
    config = RunConfig.load(file, ["--num_frames", "12"])
    assert (config.seed, config.data.num_frames, config.data.fps) == (4, 12, 8)
    assert config.model == RunConfig().model
    assert config.optim == RunConfig().optim


def test_size_is_frame_size_unless_height_or_width_say_otherwise():
    assert RunConfig.build({}, ["--frame_size", "32"]).data.size == (32, 32)
    assert RunConfig.build({}, ["--frame_size", "32", "--width", "48"]).data.size == (32, 48)


def test_flags_that_cannot_be_read_are_named():
    assert "Did you mean --learning_rate" in wrong("--learning_rat", "1")
    assert "Did you mean --optim.learning_rate" in wrong("--optim.learning_rat", "1")
    assert "'x' stands where an option is expected" in wrong("x")
    assert "takes one value and got 2: a b" in wrong("--project", "a", "b")
    assert "--seed needs a value, as in --seed 1" in wrong("--seed")
    assert "--objective needs a value" in wrong("--objective")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--num_frames", "0"], "data.num_frames is 0: input should be greater than 0"),
        (["--num_frames", "many"], "data.num_frames is 'many'"),
        (["--seed", "1.5"], "seed is 1.5"),
        (["--val_fraction", "1"], "data.val_fraction is 1"),
        (["--learning_rate", "nan"], "optim.learning_rate"),
        (["--prediction", "noise"], "'epsilon', 'v', 'x0' or 'flow'"),
        (["--attention", "time", "sideways"], "model.attention.1 is 'sideways'"),
        (["--shapes", "--data_dir", "x"], "data.shapes makes its own clips"),
        (["--shapes", "--max_objects", "3"], "the demo world small holds 1 or 2, full up to 3"),
        (["--shapes", "--world", "moon", "--max_objects", "2"], "full up to 3, moon 1"),
        (["--frozen"], "text.frozen is for an encoder that was trained before"),
        (["--shapes", "--augment", "--max_samples", "3"], "leave out augment, max_samples"),
        (
            ["--kl_weight", "1", "--adversarial_weight", "1"],
            "no tokenizer: leave out vae.kl_weight and vae.adversarial_weight",
        ),
        (["--kind", "vae", "--text_encoder", "clip"], "vae reads no captions: leave out text.text_encoder"),
        (["--kind", "vae", "--schedule", "flow"], "vae denoises nothing: leave out diffusion.schedule"),
        (["--logit_mean", "1"], "timesteps is not logit_normal: leave out diffusion.logit_mean"),
        (["--min_snr_gamma", "1"], "weighting is not min_snr: leave out diffusion.min_snr_gamma"),
        (
            ["--shift", "3", "--sampling_shift", "2"],
            "diffusion.shift and preview.sampling_shift is for the flow schedule",
        ),
        (["--num_frames", "0", "--seed", "-1"], "seed is -1"),
    ],
)
def test_values_that_break_their_rule_are_named(flags, says):
    assert says in wrong(*flags)


def test_keys_that_do_not_exist_are_named_with_the_nearest():
    assert "There is no 'sed'. Did you mean seed?" in wrong(sed=1)
    assert "There is no 'data.num_frame'. Did you mean num_frames" in wrong(data={"num_frame": 8})
    assert "There is no 'data.shapes.clip'. Did you mean clips" in wrong(data={"shapes": {"clip": 8}})
    assert "There is no 'learning_rate'" in wrong(learning_rate=1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 1\nseed: 2\n", "line 2 is not valid YAML: found duplicate key"),
        ("data: {fps: 8, fps: 9}\n", "found duplicate key"),
        ("seed: [1\n", "is not valid YAML"),
        ("data:\n\tfps: 8\n", "line 2"),
        ("- seed\n", "holds one list"),
        ("seed", "holds one str"),
        ("1: 2\n", "keys should be strings"),
    ],
)
def test_yaml_that_is_no_configuration_is_refused(tmp_path, text, says):
    file = tmp_path / "a.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        RunConfig.load(file)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_that_are_no_yaml_are_refused(tmp_path):
    with pytest.raises(UsageError, match="There is no configuration"):
        RunConfig.load(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00seed")
    with pytest.raises(UsageError, match="not valid YAML"):
        RunConfig.load(tmp_path / "a.yaml")


def test_an_empty_file_holds_the_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing\n", encoding="utf-8")
    assert RunConfig.load(tmp_path / "a.yaml") == RunConfig()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path):
    config = RunConfig.load(path)
    assert RunConfig.build(config.model_dump()) == config


def test_every_preset_loads_and_is_named_in_the_help():
    presets = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    assert presets == ["finetune", "lora", "lora-12gb", "lora-24gb"]
    for name in presets:
        config = RunConfig.build({}, ["--model", "models/any", "--preset", name])
        assert config.train.gradient_checkpointing
        assert (config.lora is not None) == name.startswith("lora")
        assert f"{name}," in (RunConfig.model_fields["preset"].description or "")


def test_assigned_values_are_checked_too():
    config = RunConfig()
    with pytest.raises(ValueError, match="greater than 0"):
        config.data.num_frames = 0


def test_the_demo_that_is_installed_is_the_one_in_configs():
    root = Path(__file__).parents[1]
    installed = root / "src" / "text2video" / "assets" / "demo.yaml"
    assert installed.read_text(encoding="utf-8") == (root / "configs" / "demo.yaml").read_text(encoding="utf-8")
