"""The model that a run starts from, and what of the run's configuration that model decides."""

import inspect
import logging
from pathlib import Path
from typing import Any

import torch

from ..config import RunConfig, validated
from ..diffusion.schedules import AutoFlow, Schedule
from ..errors import UsageError
from ..families import inflation, lora
from ..families.autoencoder import AUTOENCODERS
from ..families.autoregressive import Autoregressive
from ..families.base import Family, Opening
from ..families.devices import choose_device
from ..families.gan import VideoGAN
from ..families.imports import import_class
from ..families.native import ARCHITECTURES, NativeFamily
from ..families.opening import family_of, model_folder
from ..families.own import OwnFamily, WithoutLevels
from ..models.text import BuiltinTextModel
from ..models.transformer import SIZES
from ..sections import DECIDED, FIELDS, default_of
from ..text_pipelines import TextPipeline
from .from_images import becomes_videos, check_inflated
from .precision import HALF, choose_precision

logger = logging.getLogger("text2video")

Base = tuple[Family, Any]
"""The family and the pipeline that a run starts from."""


def open_base(config: RunConfig, trainable_only: bool = False) -> Base | None:
    """The model that a run starts from, on the CPU; None where it starts from nothing.

    An adapter leaves the model's weights as they are, so they are held in the precision that the run computes in.

    Args:
        trainable_only: leave its frozen parts on the disk, as where their work was done ahead.

    Raises:
        ModelError: it cannot be opened.
        UsageError: it cannot be held as the configuration asks.
    """
    if config.train.init_from is None:
        if config.train.parts:
            raise UsageError("--motion_adapter goes with a model of images. Name that one by --model.")
        return None
    folder = model_folder(config.train.init_from)
    if lora.base_of(folder):
        raise UsageError(f"{folder} is an adapter. Start from its base model, {lora.base_of(folder)}.")
    if config.memory.block_offload and choose_device(config.train.device).type == "cpu":
        raise UsageError(
            "--block_offload keeps weights out of a GPU's memory, and the device is the CPU: leave it out here. "
            "--quantize int8 and --layerwise_casting work on a CPU too."
        )
    if inflation.is_stable_diffusion(folder) and not config.train.parts:
        check_inflated(config)
        logger.info(
            "%s is a model of images: it gets new layers along time. By --motion_adapter it would be AnimateDiff",
            folder,
        )
        torch.manual_seed(config.seed)  # of what is new in it
        return NativeFamily(), inflation.open_stable_diffusion(folder)
    half = config.lora and choose_precision(config.train.mixed_precision, config.train.device)
    dtype = HALF.get(half or "", torch.float32)
    family = family_of(folder)
    opening = Opening(parts=config.train.parts, quantize=config.memory.quantize)
    left = trainable_only or bool(config.data.load_tensors)
    pipe = family.open(folder, torch.device("cpu"), dtype, left, opening)
    family.trainable(pipe)  # one that cannot be trained says so before the data is looked at
    return family, pipe


def settled(config: RunConfig, base: Base | None) -> RunConfig:
    """The configuration as the model that the run starts from decides it, so that run.yaml says what is so.

    Raises:
        UsageError: the configuration says of that model what it is not.
    """
    if base is None:
        return config
    if isinstance(base[0], VideoGAN):
        raise UsageError(
            f"A GAN begins with nothing, so that neither player is ahead, and not with {config.train.init_from}: leave "
            "out --init_from. Its own run goes on by --resume."
        )
    own, values, otherwise = decided(config, *base), config.model_dump(), []
    for section, names in DECIDED.items():
        for name in names:
            value, said = values[section][name], f"{section}.{name}"
            unsaid = default_of(section, name, own.get("model.kind", config.model.kind))
            if value != default_of(section, name, config.model.kind) and (said not in own or value != own[said]):
                otherwise.append(f"{said} is {value}, {f'there {own[said]}' if said in own else 'which it has not'}")
            sayable = said in own and isinstance(unsaid, list) == isinstance(own[said], list)
            values[section][name] = own[said] if sayable else unsaid
    codec = codec_of(config, base[1])
    if config.model.codec and codec is None:
        otherwise.append(f"model.codec is {config.model.codec}, which it has not")
    values["model"]["codec"] = codec
    if otherwise:
        raise UsageError(
            f"{config.train.init_from} stays what it was made as, and the configuration says otherwise: "
            f"{'; '.join(otherwise)}. Leave this out, or start from another model."
        )
    return validated(values)


def codec_of(config: RunConfig, pipe: Any) -> Path | None:
    """The folder of the codec of a model that was trained here, or of its tokenizer of video."""
    folder = model_folder(config.train.init_from or "")
    names = [name for name in ("vae", "video_tokenizer") if (folder / name).is_dir()]
    return folder / names[0] if names and isinstance(pipe, TextPipeline) else None


def decided(config: RunConfig, family: Family, pipe: Any) -> dict[str, Any]:
    """What a model that a run starts from decides, as the configuration's fields say it: dotted name -> value."""
    own = of_architecture(config, family, pipe) if isinstance(family, OwnFamily) else {}
    text: Any = getattr(pipe, "text_encoder", None)
    if config.text.text_encoder != "builtin":  # it gets another one
        own |= {f"text.{name}": getattr(config.text, name) for name in DECIDED["text"]}
    elif isinstance(text, BuiltinTextModel):
        own |= {"text.text_width": text.config["width"], "text.text_layers": text.config["num_layers"]}
        own["text.max_tokens"] = text.config["max_tokens"]
    if isinstance(family, WithoutLevels):
        return own
    schedule = family.schedule(pipe)
    own |= {"diffusion.num_timesteps": schedule.num_timesteps, "diffusion.prediction": family.prediction(pipe)}
    if type(schedule) in (Schedule, AutoFlow):  # no field can say others
        own["diffusion.schedule"] = schedule.name
        own["diffusion.shift"] = "auto" if isinstance(schedule, AutoFlow) else schedule.shift
    if type(family) is NativeFamily:
        interval, kept_apart = pipe.config["guidance_interval"], pipe.config.get("training_shift") is not None
        own["preview.guidance_interval"] = interval and tuple(interval)
        own["preview.sampling_shift"] = Schedule.from_scheduler(pipe.scheduler).shift if kept_apart else None
    return own


def of_architecture(config: RunConfig, family: Family, pipe: Any) -> dict[str, Any]:
    """The same of the architecture of a model that was trained here."""
    asked, model = config.model, first_of(family, pipe)
    made: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple | list) else value for name, value in model.config.items()
    }
    kind = kind_of(family, model)
    own: dict[str, Any] = {"model.kind": kind} | {f"model.{n}": made[n] for n in FIELDS[kind] if n in made}
    if becomes_videos(config, family, pipe):
        own |= {"model.conv": asked.conv, "model.attention": asked.attention}
    if asked.model_class and type(model) is import_class(asked.model_class):
        own["model.model_class"] = asked.model_class
    rest = {name: made[name] for name in deviating(model) if name not in FIELDS[kind]}
    if "size" in FIELDS[kind]:  # a name for some of its numbers, of which arguments may change others
        fitting = [size for size, numbers in SIZES.items() if numbers.items() <= made.items()]
        as_asked = (SIZES[asked.size] | asked.model_args).items() <= made.items()
        own["model.size"] = size = asked.size if as_asked or not fitting else fitting[0]
        rest = {n: v for n, v in rest.items() if n not in SIZES[size]}
        rest |= {n: made[n] for n, v in SIZES[size].items() if made[n] != v}
    same = {name: value for name, value in asked.model_args.items() if name in made and made[name] == value}
    own["model.model_args"] = asked.model_args if same == asked.model_args != {} else rest
    return own


# What a run gives to an architecture besides its configuration.
GIVEN = ("in_channels", "out_channels", "cross_attention_dim", "vocab_size", "conditions")
GIVEN += ("latents_mean", "latents_std")


def deviating(model: Any) -> list[str]:
    """The arguments that a model was made with, as far as they are not its class's defaults or follow from a run."""
    defaults = {name: p.default for name, p in inspect.signature(type(model).__init__).parameters.items()}
    return [
        name
        for name, value in model.config.items()
        if name in defaults and name not in GIVEN and not _same(value, defaults[name])
    ]


def _same(one: Any, other: Any) -> bool:
    return (list(one) if isinstance(one, tuple) else one) == (list(other) if isinstance(other, tuple) else other)


def first_of(family: Family, pipe: Any) -> Any:
    """The denoiser, or what stands in its place."""
    return next(iter(family.denoisers(pipe).values()))


def kind_of(family: Family, model: Any) -> str:
    """The `model.kind` of a model that was trained here."""
    if isinstance(family, Autoregressive):
        return "autoregressive"
    kinds = {kind: own.model for kind, own in AUTOENCODERS.items()} | {k: own for k, (own, _) in ARCHITECTURES.items()}
    return next(kind for kind, own in kinds.items() if isinstance(model, own))
