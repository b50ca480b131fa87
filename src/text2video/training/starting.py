"""The model that a run starts from, and what of the run's configuration that model decides."""

import logging
from typing import Any

import torch

from ..config import RunConfig, validated
from ..diffusion.schedules import BETAS, AutoFlow, Schedule
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
    if base is None or isinstance(base[0], VideoGAN):  # which is refused by itself
        return config
    own, values, otherwise = decided(config, *base), config.model_dump(), []
    for section, names in DECIDED.items():
        for name in names:
            value, said = values[section][name], f"{section}.{name}"
            given = value != default_of(section, name, config.model.kind)
            if said in own and isinstance(value, list) == isinstance(own[said], list):  # else no field can say it
                values[section][name] = own[said]
            if given and (said not in own or value != own[said]):
                otherwise.append(f"{said} is {value}, {f'there {own[said]}' if said in own else 'which it has not'}")
    if otherwise:
        raise UsageError(
            f"{config.train.init_from} stays what it was made as, and the configuration says otherwise: "
            f"{'; '.join(otherwise)}. Leave this out, or start from another model."
        )
    return validated(values)


def decided(config: RunConfig, family: Family, pipe: Any) -> dict[str, Any]:
    """What a model that a run starts from decides, as the configuration's fields say it: dotted name -> value."""
    own: dict[str, Any] = {}
    if isinstance(family, OwnFamily):
        model: Any = next(iter(family.denoisers(pipe).values()))
        config_of: dict[str, Any] = {
            name: list(value) if isinstance(value, tuple | list) else value for name, value in model.config.items()
        }
        kind = kind_of(family, model)
        names = [name for name in FIELDS[kind] if name in config_of]
        own |= {"model.kind": kind} | {f"model.{name}": config_of[name] for name in names}
        sizes = [size for size, numbers in SIZES.items() if numbers.items() <= config_of.items()]
        if "size" in FIELDS[kind] and sizes:
            own["model.size"] = sizes[0]
        if becomes_videos(config, family, pipe):
            own |= {"model.conv": config.model.conv, "model.attention": config.model.attention}
        own["model.model_args"] = {n: config_of[n] for n in config.model.model_args if n in config_of}
        if config.model.model_class and type(model) is import_class(config.model.model_class):
            own["model.model_class"] = config.model.model_class
    text: Any = getattr(pipe, "text_encoder", None)
    if config.text.text_encoder != "builtin":  # it gets another one
        own |= {f"text.{name}": getattr(config.text, name) for name in DECIDED["text"]}
    elif isinstance(text, BuiltinTextModel):
        own |= {"text.text_width": text.config["width"], "text.text_layers": text.config["num_layers"]}
        own["text.max_tokens"] = text.config["max_tokens"]
    if not isinstance(family, WithoutLevels):
        schedule = family.schedule(pipe)
        own |= {"diffusion.num_timesteps": schedule.num_timesteps, "diffusion.prediction": family.prediction(pipe)}
        if type(family) is NativeFamily:
            interval, kept_apart = pipe.config["guidance_interval"], pipe.config.get("training_shift") is not None
            own["preview.guidance_interval"] = interval and tuple(interval)
            own["preview.sampling_shift"] = Schedule.from_scheduler(pipe.scheduler).shift if kept_apart else None
        if schedule.name in (*BETAS, "flow"):
            own["diffusion.schedule"] = schedule.name
            own["diffusion.shift"] = "auto" if isinstance(schedule, AutoFlow) else schedule.shift
    return own


def kind_of(family: OwnFamily, model: Any) -> str:
    """The `model.kind` of a model that was trained here."""
    if isinstance(family, Autoregressive):
        return "autoregressive"
    kinds = {kind: own.model for kind, own in AUTOENCODERS.items()} | {k: own for k, (own, _) in ARCHITECTURES.items()}
    return next(kind for kind, own in kinds.items() if isinstance(model, own))
