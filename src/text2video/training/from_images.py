"""A run that begins with a model of images: its U-Net becomes one of videos, and what of it learns is chosen."""

import logging
from typing import Any

import torch
from torch import nn

from ..config import RunConfig
from ..errors import UsageError
from ..families import lora
from ..families.base import Family
from ..families.native import NativeFamily
from ..models.inflation import along_time, check_apart, inflate, is_image_model

logger = logging.getLogger("text2video")


def inflate_frames(config: RunConfig, family: Family, pipe: Any) -> None:
    """Make a model of single frames that was trained here one of videos, where a run has clips of several frames.

    Its convolutions and attention are then those that the configuration says.

    Raises:
        ModelError: they do not suit it.
        UsageError: see `check_inflated`.
    """
    if becomes_videos(config, family, pipe):
        check_inflated(config)
        logger.info("%s is a model of images: it gets new layers along time", config.train.init_from)
        torch.manual_seed(config.seed)
        pipe.register_modules(unet=inflate(pipe.unet, config.model.conv, config.model.attention))


def becomes_videos(config: RunConfig, family: Family, pipe: Any) -> bool:
    """Whether what a run starts from is a model of single frames made here, and the run has clips of several."""
    clips = config.data.num_frames > 1 or bool(config.data.buckets)
    return clips and type(family) is NativeFamily and is_image_model(pipe.denoiser)


def check_inflated(config: RunConfig) -> None:
    """Whether a run can begin with a model of images.

    Raises:
        UsageError: it trains an adapter, or on what was encoded ahead for a model of videos.
    """
    if config.lora:
        raise UsageError(
            f"{config.train.init_from} is a model of images: what is new in it for videos has to be trained whole, and "
            "--lora trains adapters alone. Its own layers can be changed in low rank by --spatial lora."
        )
    if config.data.load_tensors:
        raise UsageError(
            f"{config.train.init_from} is a model of images, and prepared data is made for models of videos: train on "
            "the clips themselves, without --load_tensors."
        )


def learning_along_time(config: RunConfig, family: Family, pipe: Any) -> dict[str, nn.Module]:
    """What a run trains, see `learning`, where the layers of a model of images stay, or change in low rank.

    Its text encoder stays too.

    Raises:
        UsageError: they cannot be told from the layers along time.
    """
    parts = family.denoisers(pipe)
    torch.manual_seed(config.seed)
    for component, part in parts.items():
        check_apart(part)
        new = {name for name, _ in part.named_parameters() if along_time(part, name)}
        layers = [
            name
            for name, module in part.named_modules()
            if isinstance(module, nn.Linear | nn.Conv3d) and f"{name}.weight" not in new
        ]
        part.requires_grad_(False)
        if config.optim.spatial == "lora":
            lora.add({component: part}, layers, config.optim.spatial_rank)
        for name, parameter in part.named_parameters():
            if name in new:
                parameter.requires_grad_(True)
    return parts
