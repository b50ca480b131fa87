"""A model of images as the beginning of one of videos: Stable Diffusion 1 or 2, or a model of single frames made here.

What comes out is a pipeline of our own family, whose U-Net is at first the image model in each single frame.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..diffusion.schedules import PREDICTIONS, Schedule
from ..errors import ModelError
from ..models.codecs import geometry_of, open_codec
from ..models.stable_diffusion import inflate_stable_diffusion
from ..models.text import TextEncoder
from ..pipelines import TextToVideoPipeline

IMAGES, UNET = "StableDiffusionPipeline", "UNet2DConditionModel"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def is_stable_diffusion(folder: Path) -> bool:
    """Whether a folder holds a pipeline of images.

    Raises:
        ModelError: it holds the U-Net of one by itself.
    """
    if _read(folder / "config.json").get("_class_name") == UNET:
        raise ModelError(
            f"{str(folder)!r} is a {UNET} by itself. To make videos it needs the text encoder, autoencoder and "
            "schedule that it was trained with: give the folder of its pipeline, which has a model_index.json."
        )
    return _read(folder / "model_index.json").get("_class_name") == IMAGES


def open_stable_diffusion(folder: Path) -> TextToVideoPipeline:
    """A pipeline of videos from a folder of a `StableDiffusionPipeline`: its U-Net inflated, all else as it is.

    Raises:
        ModelError: a part is missing, or is not one that this can be done with; what does not fit is named.
    """
    config = _read(folder / "unet" / "config.json")
    if config.get("_class_name") != UNET:
        raise ModelError(f"{folder / 'unet'} holds a {config.get('_class_name')}, and not a {UNET}.")
    unet = inflate_stable_diffusion(config, _weights(folder / "unet"), str(folder / "unet"))
    vae, text = open_codec(folder / "vae"), TextEncoder.open(folder)
    channels = geometry_of(vae).channels
    takes, gives, reads = (unet.config[name] for name in ("in_channels", "out_channels", "cross_attention_dim"))
    if (takes, gives, reads) != (channels, channels, text.width):
        raise ModelError(
            f"The U-Net in {folder} takes {takes} channels, gives {gives} and reads text {reads} wide; its autoencoder "
            f"has {channels} channels and its text encoder is {text.width} wide. Give a model that makes pictures from "
            "text alone: one for inpainting or for depth takes more."
        )
    published = _scheduler(folder / "scheduler")
    names = {theirs: ours for ours, theirs in PREDICTIONS.items()}
    prediction = names[published.config.get("prediction_type", "epsilon")]
    size, stride = config.get("sample_size") or 64, geometry_of(vae).strides[1]
    height, width = (n * stride for n in ([size] * 2 if isinstance(size, int) else size))
    return TextToVideoPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text.model,
        tokenizer=text.tokenizer,
        scheduler=Schedule.from_scheduler(published).sampler("ddim", prediction, clip=False),
        prediction=prediction,
        height=height,
        width=width,
        guidance_scale=7.5,  # the published default
        filled_captions=True,
    )


def _scheduler(folder: Path) -> Any:
    """The scheduler of diffusers in a folder.

    Raises:
        ModelError: there is none, or one for another kind of prediction.
    """
    import diffusers

    config = _read(folder / "scheduler_config.json")
    kind: Any = getattr(diffusers, str(config.get("_class_name")), None)
    known = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    if not known or config.get("prediction_type", "epsilon") not in PREDICTIONS.values():
        raise ModelError(
            f"{folder} holds no scheduler that is known: its class is {config.get('_class_name')}, and it predicts "
            f"{config.get('prediction_type')}."
        )
    return kind.from_pretrained(folder)


def _weights(folder: Path) -> dict[str, Tensor]:
    """The weights in a part's folder, in one file or several."""
    index = _read(folder / f"{WEIGHTS}.index.json").get("weight_map", {WEIGHTS: WEIGHTS})
    found: dict[str, Tensor] = {}
    try:
        for name in sorted(set(index.values())):
            found |= load_file(folder / Path(name).name)
    except (OSError, SafetensorError) as error:
        there = ", ".join(sorted(path.name for path in folder.glob("*.*"))) or "nothing"
        raise ModelError(
            f"The weights in {folder} cannot be read: {error}. There has to be a {WEIGHTS}; there is {there}."
        ) from None
    return found


def _read(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        if isinstance(found := json.loads(file.read_text(encoding="utf-8")), dict):
            return found
    return {}
