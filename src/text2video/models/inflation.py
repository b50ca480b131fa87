"""From a model of images to one of videos, which on a single frame is at first the same model.

Layers of a frame keep their weights. What only videos need begins as nothing: attention with a zero output, kernels
over time that hold the 2D kernel in the tap of the frame itself and zeros beside it (Singer et al. 2022,
arXiv:2209.14792; Blattmann et al. 2023, arXiv:2304.08818).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError, UsageError
from .causal import CausalConv3d
from .latent_unet import LatentUNet3D
from .unet3d import UNet3D

# The layers that look along time, by their names: what a model of videos has beside an image model's layers.
_TIME: Mapping[type, str] = {
    UNet3D: r"attentions\.(time|full)\.|(^|\.)(enter|conv_in|conv_out)\.1\.|^place_embedding\.",
    LatentUNet3D: r"attentions\.(time|full)\.|\.(conv|norm)_time\.|^(text|place)_embedding\.",
}


def is_image_model(model: nn.Module) -> bool:
    """Whether a model of ours is one of single frames."""
    return isinstance(model, UNet3D) and model.config["conv"] == "2d"


def inflate(image: UNet3D, conv: str = "3d", attention: Sequence[str] = ()) -> UNet3D:
    """A model of videos from one of single frames; its new layers are drawn anew, from torch's generator.

    Args:
        image: a `UNet3D` with `conv="2d"`.
        conv: "3d" or "factorised".
        attention: one for each level; it has to have the image model's; () means the image model's, and each "space"
            made "factorised".

    Raises:
        ModelError: it is no model of images, or the attention leaves no place for the image model's.
    """
    if not is_image_model(image):
        raise ModelError(f'This {type(image).__name__} is no model of single frames: conv is not "2d".')
    own = image.config["attention"]
    attention = list(attention) or ["factorised" if kind == "space" else kind for kind in own]
    if len(attention) != len(own):
        raise ModelError(
            f"attention has {len(attention)} levels, {' '.join(attention)}, and the image model {len(own)}, "
            f"{' '.join(own)}. Give one for each of its levels."
        )
    made: Any = type(image).from_config(image.config, conv=conv, attention=attention)
    video: UNet3D = made
    convolution = re.compile(r"(^|\.)(enter|conv_in|conv_out)\.0\.")  # the first factor

    def sources(name: str) -> tuple[str, ...]:
        return (convolution.sub(r"\1\2.", name),)

    theirs = image.state_dict()
    # Time is the slowest axis of the field's rows, and its constant wave the first: the others are new.
    waves = video.place_embedding.waves[0]
    for name in ("place_embedding.amplitudes.weight", "place_embedding.amplitudes.bias"):
        theirs[name] = torch.cat([theirs[name], *[torch.zeros_like(theirs[name])] * (waves - 1)])
    new = {name for name in video.state_dict() if along_time(video, name) and name not in theirs}
    new |= {name for name in video.state_dict() if ".attentions.space." in name and name not in theirs}
    carry(video, theirs, sources, new)
    for name, module in video.named_modules():
        if isinstance(module, nn.Conv3d) and f"{name}.weight" in new:  # the second factor: each frame as it is
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType] - each has one
            nn.init.eye_(module.weight.data[:, :, _tap(module), 0, 0])
    return video.eval()


def along_time(model: nn.Module, name: str) -> bool:
    """Whether a parameter of a U-Net of ours is one that an image model does not have."""
    return any(isinstance(model, kind) and re.search(names, name) for kind, names in _TIME.items())


def check_apart(model: nn.Module) -> None:
    """Whether a model's layers of frames can be told from those along time.

    Raises:
        UsageError: they cannot.
    """
    if not isinstance(model, UNet3D | LatentUNet3D):
        raise UsageError(f"--spatial is for the U-Nets made here, and this model is a {type(model).__name__}.")
    if isinstance(model, UNet3D) and model.config["conv"] != "factorised":
        raise UsageError(
            f"--spatial needs layers of frames that are apart from those along time, and this model's convolutions are "
            f"{model.config['conv']}. Inflate the image model with --conv factorised, or leave out --spatial."
        )


def carry(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    sources: Callable[[str], Sequence[str]],
    new: set[str],
    origin: str = "the image model",
) -> None:
    """Give a model an image model's weights, all of them; nothing of the model is left but what is `new`.

    Args:
        sources: name of a weight here -> its name there, or the names of several that lie one after the other in it.
        new: names of weights that an image model does not have.
        origin: what the weights are of, for an error.

    Raises:
        ModelError: weights are missing, left over, or of another shape; they are named.
    """
    own, modules = model.state_dict(), dict(model.named_modules())
    wanted = {name: sources(name) for name in own if name not in new}
    missing = sorted({there for names in wanted.values() for there in names} - weights.keys())
    surplus = sorted(weights.keys() - {there for names in wanted.values() for there in names})
    odd = []
    for name, names in wanted.items():
        if not {*names} <= weights.keys():
            continue
        values = [weights[there] for there in names]
        fitted = _fitted(values, own[name], modules[name.rpartition(".")[0]])
        if fitted is None:
            shapes = (f"{there} {[*value.shape]}" for there, value in zip(names, values, strict=True))
            odd.append(f"{', '.join(shapes)}, where {name} is {[*own[name].shape]}")
        else:
            own[name].copy_(fitted)
    if missing or surplus or odd:
        said = {"lacks": missing, "has beside what is known": surplus, "has in another shape": odd}
        found = "; ".join(f"{verb} {_some(names)}" for verb, names in said.items() if names)
        raise ModelError(f"The weights of {origin} do not make a {type(model).__name__}: it {found}.")


def _fitted(values: Sequence[Tensor], like: Tensor, module: Any) -> Tensor | None:
    """Weights of an image model, one after the other, in the shape of one here; None where they do not fit."""
    if len({value.shape[1:] for value in values}) > 1 or not all(value.ndim for value in values):
        return None
    value = torch.cat([*values])
    if value.ndim == 4:  # [O, I, H, W]: a 1 x 1 convolution is a linear layer here
        value = value.flatten(1) if like.ndim == 2 else value[:, :, None]
    if value.shape == like.shape:
        return value
    if isinstance(module, nn.Conv3d) and value.shape == like[:, :, :1].shape:
        wide = torch.zeros_like(like)
        wide[:, :, _tap(module)] = value[:, :, 0]
        return wide
    return None


def _tap(convolution: nn.Conv3d) -> int:
    """The place of a frame itself in a kernel over time."""
    return -1 if isinstance(convolution, CausalConv3d) else convolution.kernel_size[0] // 2


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
