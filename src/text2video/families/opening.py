"""From a path or a name to a model: the table of families, and how a folder is found, read and opened."""

import json
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ModelError, UsageError
from ..shipped import place_of
from . import lora
from .base import AS_USUAL, Family, Opening
from .devices import choose_device, choose_dtype
from .precision import cast_layers

# Pipeline class in model_index.json -> module and class of its family.
FAMILIES = {
    "AutoregressivePipeline": "autoregressive:Autoregressive",
    "CogVideoXImageToVideoPipeline": "cogvideox:CogVideoX",
    "CogVideoXPipeline": "cogvideox:CogVideoX",
    "CogVideoXVideoToVideoPipeline": "cogvideox:CogVideoX",
    "LTXConditionPipeline": "ltx_video:LTXVideo",
    "LTXImageToVideoPipeline": "ltx_video:LTXVideo",
    "LTXPipeline": "ltx_video:LTXVideo",
    "TextToVideoPipeline": "native:NativeFamily",
    "VideoAutoencoderPipeline": "autoencoder:Autoencoder",
    "VideoTokenizerPipeline": "autoencoder:Tokenizer",
    "VideoGANPipeline": "gan:VideoGAN",
    "TextToVideoSDPipeline": "modelscope:ModelScope",
    "VideoToVideoSDPipeline": "modelscope:ModelScope",
    "OpenSoraPipeline": "opensora:OpenSora",
    "StableDiffusionPipeline": "animatediff:AnimateDiff",  # with a motion adapter beside it
    "AnimateDiffPipeline": "animatediff:AnimateDiff",
    "AnimateDiffVideoToVideoPipeline": "animatediff:AnimateDiff",
    "AnimateDiffControlNetPipeline": "animatediff:AnimateDiff",
    "TextToVideoZeroPipeline": "zero:TextToVideoZero",
    "WanPipeline": "wan:Wan",
    "WanImageToVideoPipeline": "wan:Wan",
    "WanVideoToVideoPipeline": "wan:Wan",
    "HunyuanVideo15Pipeline": "hunyuan:HunyuanVideo",
    "HunyuanVideo15ImageToVideoPipeline": "hunyuan:HunyuanVideo",
    "StableVideoDiffusionPipeline": "svd:StableVideoDiffusion",
    "TextStableVideoDiffusionPipeline": "svd:StableVideoDiffusion",
}
# Pipeline class in model_index.json -> another that its folder can be opened as, where that one is named.
OTHERWISE = {"StableDiffusionPipeline": "TextToVideoZeroPipeline"}
# `model_type` of published parts that come without a model_index.json -> the pipeline class that they make.
IN_PARTS = {"STDiT3": "OpenSoraPipeline", "VideoAutoencoderPipeline": "OpenSoraPipeline"}


def family_of(path: Path, pipeline: str | None = None) -> Family:
    """The family of the model in a folder, by its model_index.json.

    Args:
        pipeline: class of diffusers to open it as, in place of the one that it names.

    Raises:
        ModelError: it is no model folder, or of a family that is not known.
        UsageError: it cannot be opened as that class.
    """
    index = path / "model_index.json"
    kind = _class_in(index) if index.is_file() else _class_of_parts(path)
    if kind is None:
        raise ModelError(
            f"{str(path)!r} is no model: it has no model_index.json. Give a run's folder, its `final` folder, "
            "or another diffusers folder."
        )
    if kind not in FAMILIES:
        raise ModelError(f"The model in {str(path)!r} is a {kind}. Known are {', '.join(FAMILIES)}.")
    if pipeline not in (None, kind, OTHERWISE.get(kind)):
        other = f"Choose {OTHERWISE[kind]}, or leave out --pipeline." if kind in OTHERWISE else "Leave out --pipeline."
        raise UsageError(f"The model in {str(path)!r}, a {kind}, cannot be opened as {pipeline!r}. {other}")
    module, name = FAMILIES[pipeline or kind].split(":")
    return getattr(import_module(f".{module}", __package__), name)()


def _class_in(index: Path) -> str:
    try:
        return str(json.loads(index.read_text(encoding="utf-8")).get("_class_name"))
    except (ValueError, AttributeError):
        raise ModelError(f"{index} is damaged: it is no JSON object. Save the model again.") from None


def _class_of_parts(path: Path) -> str | None:
    """The pipeline class of a folder with published parts, or of one part's folder."""
    for config in (path / "transformer" / "config.json", path / "config.json"):
        with suppress(OSError, ValueError, AttributeError):
            if kind := IN_PARTS.get(json.loads(config.read_text(encoding="utf-8")).get("model_type")):
                return kind
    return None


def open_model(
    path: str | Path, device: torch.device, dtype: torch.dtype | None = None, opening: Opening = AS_USUAL
) -> tuple[Family, Any]:
    """The family and the pipeline that a path means: see `model_folder`; an adapter's folder means its base with it.

    Args:
        dtype: of the weights; None: float32 on a CPU, elsewhere the family's own.

    Raises:
        ModelError: there is none, or an adapter fits nothing in it.
        UsageError: it cannot be opened in that way.
    """
    if opening.layerwise_casting and opening.offload in ("group", "sequential"):
        raise UsageError(
            f"--layerwise_casting holds weights in one way and --offload {opening.offload} in another: leave out one."
        )
    folder, adapters = model_folder(path), list(opening.lora)
    if base := lora.base_of(folder):
        opening = replace(opening, parts={**lora.parts_of(folder), **opening.parts})
        folder, adapters = model_folder(base), [folder, *adapters]
    family = family_of(folder, opening.pipeline)
    pipe = family.open(folder, device, dtype or own_dtype(family, device), opening=opening)
    modules = family.denoisers(pipe)
    for name in getattr(pipe, "_lora_loadable_modules", ()):  # others' adapters may go to a text encoder too
        if isinstance(part := getattr(pipe, name, None), nn.Module):
            modules[name] = part
    for number, adapter in enumerate(adapters):
        own = adapter.is_file() or (adapter / lora.FILE).is_file()
        file = adapter if own else model_folder(adapter)
        lora.apply(modules, lora.read(file, pipe), f"lora{number}")
    if opening.layerwise_casting:
        cast_layers(family.denoisers(pipe).values(), dtype or own_dtype(family, device))
    return family, pipe


def model_folder(path: str | Path) -> Path:
    """The folder of the pipeline (or adapter) that a path means: a pipeline, a run, a checkpoint, a part such as
    `final/unet`, or a model's name: `moving-shapes`, which comes with the package, or that of a published one.

    Raises:
        ModelError: a published model is named that is not on this machine.
    """
    path = place_of(path)
    if not path.exists():
        from .catalog import named  # it knows all families, and they know this module

        return named(path.as_posix()) or path
    # a finished run, a checkpoint, a stopped run, or a part of a pipeline, which has to exist
    pointed = [path / _read(path / name) / "model" for name in ("best", "last") if (path / name).is_file()]
    for folder in (path, path / "final", path / "model", *pointed, path.parent):
        if (folder / "model_index.json").is_file() or lora.base_of(folder):
            return folder
    return path


def _read(pointer: Path) -> str:
    return pointer.read_text(encoding="utf-8").strip()


def own_dtype(family: Family, device: torch.device) -> torch.dtype:
    """What a family computes in on a device when it is not told otherwise."""
    return torch.float32 if device.type == "cpu" else family.dtype


def load(path: str | Path, device: str = "auto", dtype: str = "auto", opening: Opening = AS_USUAL) -> Any:
    """The pipeline of a trained or pretrained model.

    Args:
        path: a run's folder, its `final` folder, a part of it such as `final/unet`, or another diffusers folder.
        device: auto, cpu, cuda or mps.
        dtype: float32, bfloat16, float16, or auto: float32 on a CPU, elsewhere what the family computes in.
        opening: adapters, offloading and the like.
    """
    return open_model(path, choose_device(device), choose_dtype(dtype), opening)[1]
