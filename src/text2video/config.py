"""The run configuration: one strict, complete description of a training run.

A run is described by YAML, by flags laid over it, or by `RunConfig(...)` in Python; all three are checked by the same
fields. Every field is a flag by its dotted name (`--optim.learning_rate`) and, where it is unique, by its last name
(`--learning_rate`). `run.yaml` in the run's folder holds the resolved configuration and repeats the run.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML

from .errors import UsageError
from .flags import Flags, did_you_mean, section_of
from .sections import (
    CODECS,
    DENOISERS,
    DataConfig,
    DiffusionConfig,
    LoraConfig,
    MemoryConfig,
    ModelConfig,
    OptimConfig,
    PreviewConfig,
    Section,
    TextConfig,
    TrackingConfig,
    TrainConfig,
    VaeConfig,
)
from .shipped import place_of
from .stages import Stage, in_sections, laid_over
from .values import merged, over, preset_file, read_yaml


class RunConfig(Section):
    """A complete run. `RunConfig()` holds the defaults of a model trained from scratch."""

    output_dir: Path = Field(Path("runs/run"), description="the run's folder")
    preset: str | None = Field(
        None, description="values that all others are laid over: finetune, lora, lora-12gb, lora-24gb, or a YAML file"
    )
    seed: int = Field(0, ge=0, lt=2**62, description="everything random follows from it")
    data: DataConfig = DataConfig()  # pyright: ignore[reportCallIssue]
    model: ModelConfig = ModelConfig()  # pyright: ignore[reportCallIssue]
    text: TextConfig = TextConfig()  # pyright: ignore[reportCallIssue]
    diffusion: DiffusionConfig = DiffusionConfig()  # pyright: ignore[reportCallIssue]
    vae: VaeConfig = VaeConfig()  # pyright: ignore[reportCallIssue]
    lora: LoraConfig | None = Field(None, description="train adapters in place of all weights")
    optim: OptimConfig = OptimConfig()  # pyright: ignore[reportCallIssue]
    memory: MemoryConfig = MemoryConfig()  # pyright: ignore[reportCallIssue]
    train: TrainConfig = TrainConfig()  # pyright: ignore[reportCallIssue]
    preview: PreviewConfig = PreviewConfig()  # pyright: ignore[reportCallIssue]
    tracking: TrackingConfig = TrackingConfig()  # pyright: ignore[reportCallIssue]
    stages: list[dict[str, Any]] = Field(
        [], description="max_steps and other fields of each stage, laid over the rest: small videos first, then larger"
    )

    @model_validator(mode="after")
    def _cross_check(self) -> "RunConfig":
        files = [self.data.data_dir, self.data.data_root, self.data.dataset_file]
        if self.data.shapes is not None and any(files):
            raise ValueError("data.shapes makes its own clips: leave out data_dir, data_root and dataset_file")
        if self.data.load_tensors and self.data.shapes is not None:
            raise ValueError("data.shapes makes its own clips: leave out load_tensors, or leave out shapes")
        if self.data.load_tensors and self.data.augment:
            raise ValueError("data.load_tensors holds one view of each clip, and data.augment varies it: leave out one")
        if self.diffusion.forcing != "none" and not self.train.init_from and self.model.time_attention != "causal":
            raise ValueError(
                "diffusion.forcing gives each block of frames its own noise level, and only causal transformers have "
                "such blocks: add --kind transformer --time_attention causal, or leave it out"
            )
        if self.data.pack and self.train.init_from is None and self.model.kind != "transformer":
            raise ValueError(
                f"data.pack puts clips of any sizes in one row, which a {self.model.kind} cannot take: choose "
                "model.kind transformer, or leave out pack; data.buckets sorts clips by size"
            )
        if self.data.pack and self.diffusion.forcing != "none":
            raise ValueError("data.pack has one noise level for a clip, and diffusion.forcing several: leave out one")
        if self.data.pack and self.train.last_batch == "smaller":
            raise ValueError(
                "data.pack has packs wait for the next epoch: leave out train.last_batch, or leave out pack"
            )
        unfit = {
            "data.pack": self.data.pack,
            "data.augment": self.data.augment,
            "data.load_tensors": self.data.load_tensors,
        }
        unfit[f"model.kind {self.model.kind}"] = self.model.kind not in DENOISERS
        if self.model.conditions and (given := [name for name, value in unfit.items() if value]):
            raise ValueError(
                "model.conditions go with denoisers, and clips of one size in a batch, read as they are: leave out "
                f"{' and '.join(given)}, or leave out the conditions"
            )
        if unused := self._unused():
            raise ValueError(unused)
        steps, timesteps = self.preview.num_inference_steps, self.diffusion.num_timesteps
        if steps and steps > timesteps:
            raise ValueError(
                f"preview.num_inference_steps is {steps}, and the model has {timesteps} timesteps: ask for fewer"
            )
        if self.optim.spatial != "free" and (self.lora is not None or self.train.init_from is None):
            raise ValueError(
                f"optim.spatial {self.optim.spatial} keeps the layers of a model of images, or nearly so, and trains "
                "those along time whole: name that model by --init_from, and leave out lora"
            )
        held = [name for name, value in self.memory if value]
        if held and self.lora is None:
            raise ValueError(
                f"memory.{held[0]} is for weights that stay as they are, and a run without lora trains them: add --lora"
            )
        if self.memory.quantize and len(held) > 1:
            raise ValueError(f"memory.quantize holds weights in one way and memory.{held[1]} in another: leave out one")
        if self.train.sharding != "none":
            alone = {"lora": self.lora is not None, "optim.optimizer adamw8bit": self.optim.optimizer == "adamw8bit"}
            alone["optim.spatial lora"] = self.optim.spatial == "lora"
            alone["train.mixed_precision fp16"] = self.train.mixed_precision == "fp16"
            if given := [name for name, value in alone.items() if value]:
                raise ValueError(
                    f"train.sharding deals out weights that all train, in float32 or bf16: leave out "
                    f"{' and '.join(given)}, or leave out train.sharding"
                )
        unused = ("augment", "buckets", "caption_prefix", "max_samples", "dataset_class")
        if self.data.shapes is not None and (given := [name for name in unused if getattr(self.data, name)]):
            raise ValueError(f"data.shapes makes its own clips: leave out {', '.join(given)}")
        return self

    def _unused(self) -> str | None:
        """Which values, given on purpose, the run would not look at; what a model that it starts from looks at is not
        known here."""
        kind, diffusion = self.model.kind, self.diffusion
        levels = diffusion.model_dump(exclude_defaults=True)
        if levels and kind not in DENOISERS:
            return f"model.kind {kind} denoises nothing: leave out {_names('diffusion', levels)}"
        if self.train.init_from:
            return None
        if kind not in CODECS and (given := self.vae.model_dump(exclude_defaults=True)):
            return f"model.kind {kind} is no autoencoder and no tokenizer: leave out {_names('vae', given)}"
        if kind in CODECS and (given := self.text.model_dump(exclude_defaults=True)):
            return f"model.kind {kind} reads no captions: leave out {_names('text', given)}"
        if diffusion.timesteps != "logit_normal" and (
            given := [name for name in ("logit_mean", "logit_std") if name in levels]
        ):
            return f"diffusion.timesteps is not logit_normal: leave out {_names('diffusion', given)}"
        if diffusion.weighting != "min_snr" and "min_snr_gamma" in levels:
            return "diffusion.weighting is not min_snr: leave out diffusion.min_snr_gamma"
        shifts = {"diffusion.shift": "shift" in levels, "preview.sampling_shift": self.preview.sampling_shift}
        if diffusion.schedule != "flow" and (given := [name for name, value in shifts.items() if value]):
            return (
                f"{' and '.join(given)} is for the flow schedule, and diffusion.schedule is {diffusion.schedule}: "
                "choose --schedule flow, or leave it out"
            )
        return None

    @model_validator(mode="after")
    def _stages_fit(self) -> "RunConfig":
        if self.stages and self.train.max_steps is not None:
            raise ValueError("train.max_steps does not go with stages, each of which has its own: leave it out")
        for number, stage in enumerate(self.stages, 1):
            try:
                validated(laid_over(self.model_dump(), stage))
            except UsageError as error:
                words = str(error).removeprefix(UNUSABLE).rstrip(".")
                raise ValueError(f"Stage {number} of {len(self.stages)}: {words}") from None
        return self

    @property
    def in_stages(self) -> list[Stage]:
        """The stages in their order, each with its complete configuration; a run without stages is one."""
        if not self.stages:
            return [Stage(1, 1, 0, self)]
        values = self.model_dump()
        configs = [validated(laid_over(values, stage)) for stage in self.stages]
        ends = [0, *accumulate(config.train.max_steps or 0 for config in configs)]
        return [Stage(n, len(configs), ends[n - 1], config, ends[-1]) for n, config in enumerate(configs, 1)]

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> "RunConfig":
        """A configuration from YAML, with command-line tokens (`["--seed", "1"]`) laid over it.

        Raises:
            UsageError: the file is missing or not YAML, a key is unknown or given twice, or a value breaks its rule.
        """
        return cls.build(read_config(Path(path)), overrides)

    @classmethod
    def build(cls, values: Mapping[str, Any], overrides: Sequence[str] = ()) -> "RunConfig":
        """A configuration from nested values, with command-line tokens laid over them, and a preset below them."""
        flags = FLAGS.parse(overrides)
        if names_a_model(overrides) and "preset" not in values and not made_here(flags["train.init_from"]):
            flags.setdefault("preset", "finetune")
        preset = flags.get("preset", values.get("preset"))
        below: dict[str, Any] = read_yaml(preset_file(str(preset))) if preset else {}
        # what it says is in the values from now on: a run does not change with a file beside it
        config = validated(merged(over(below, values), flags) | {"preset": None})
        for flag in flags:
            section, _, name = flag.rpartition(".")
            if config.stages and all(name in in_sections(stage).get(section, {}) for stage in config.stages):
                raise UsageError(f"--{name} would change nothing: every stage sets it itself. Change it in the stages.")
        return config

    def to_yaml(self) -> str:
        """The whole configuration as YAML; `RunConfig.load` of it gives an equal configuration."""
        from io import StringIO

        yaml, text = YAML(typ="safe"), StringIO()
        yaml.default_flow_style = False
        yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
        yaml.dump(self.model_dump(mode="json"), text)
        return text.getvalue()


# Other tools' names for the same thing.
ALIASES = {
    "epochs": "train.num_epochs",
    "video_length": "data.num_frames",
    "model": "train.init_from",
    "model_path": "train.init_from",
}
# What a flag without a value means, where that is not simply true.
BARE = {"train.mixed_precision": "bf16", "data.shapes": {}, "lora": {}}
FLAGS = Flags(RunConfig, ALIASES, BARE)
UNUSABLE = "The configuration cannot be used. "


def _names(section: str, fields: Iterable[str]) -> str:
    """Fields of a section as an error names them."""
    return " and ".join(f"{section}.{name}" for name in fields)


def read_config(path: Path) -> dict[str, Any]:
    """Nested values from a YAML file; a section whose lines are all commented out is an empty one."""
    sections = [name for name, field in RunConfig.model_fields.items() if section_of(field.annotation)]
    return {name: value for name, value in read_yaml(path).items() if value is not None or name not in sections}


def names_a_model(tokens: Sequence[str]) -> bool:
    """Whether --model is among the flags: if what it names is pretrained, it is fine-tuned by a preset."""
    return any(token.partition("=")[0] in ("--model", "--model_path", "--model-path") for token in tokens)


OURS = (
    "AutoregressivePipeline",
    "TextToVideoPipeline",
    "VideoAutoencoderPipeline",
    "VideoGANPipeline",
    "VideoTokenizerPipeline",
)


def made_here(model: Any) -> bool:
    """Whether a model was trained by this package from nothing: it goes on as it was, by no preset."""
    place = place_of(str(model))
    for folder in (place, place / "final", place.parent):
        index = folder / "model_index.json"
        if index.is_file():
            text = index.read_text(encoding="utf-8", errors="replace")
            return any(f'"{name}"' in text for name in OURS)
    return False


def validated(values: Mapping[str, Any]) -> RunConfig:
    """A `RunConfig`, or one UsageError that names every wrong key and value."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise UsageError(UNUSABLE + " ".join(map(_in_words, error.errors()))) from None


def _in_words(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        siblings = [
            name.rpartition(".")[2] for name in FLAGS.fields if name.rpartition(".")[0] == where.rpartition(".")[0]
        ]
        top = list(RunConfig.model_fields) if "." not in where else []
        return f"There is no {where!r}.{did_you_mean(str(error['loc'][-1]), [*siblings, *top])}"
    if error["type"] == "value_error":
        return f"{error['ctx']['error']}."
    return f"{where} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}."
