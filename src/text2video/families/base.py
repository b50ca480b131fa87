"""Families: the parts of one kind of model and how they are wired, and the table that finds a model's family."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ..diffusion.schedules import Schedule
from ..errors import ModelError, UsageError
from ..models.codecs import Latents
from ..sizes import Bucket, ShapeRules
from . import lora
from .precision import Quantization, cast_layers

# Pipeline class in model_index.json -> module and class of its family.
FAMILIES = {
    "CogVideoXImageToVideoPipeline": "cogvideox:CogVideoX",
    "CogVideoXPipeline": "cogvideox:CogVideoX",
    "CogVideoXVideoToVideoPipeline": "cogvideox:CogVideoX",
    "LTXConditionPipeline": "ltx_video:LTXVideo",
    "LTXImageToVideoPipeline": "ltx_video:LTXVideo",
    "LTXPipeline": "ltx_video:LTXVideo",
    "TextToVideoPipeline": "native:NativeFamily",
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
Task = Literal["text-to-video", "image-to-video", "video-to-video"]
Offload = Literal["none", "model", "sequential", "group"]


@dataclass(frozen=True)
class Defaults:
    """How a model makes videos when it is not told otherwise; frames, pixels, frames a second, steps."""

    num_frames: int
    height: int
    width: int
    fps: float
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str = ""
    guidance_interval: Sequence[float] | None = None


@dataclass(frozen=True)
class Published:
    """A pretrained model that can be downloaded.

    Args:
        repository: its name on the Hugging Face Hub, in diffusers' folder format.
        tasks: what it makes videos from.
        licence: as its model card says.
        billions: parameters of its denoiser.
        gigabytes: of the files that are needed, on the disk.
        parts: what else is needed: name as in `Opening.parts` -> its repository. It counts above.
    """

    repository: str
    tasks: tuple[Task, ...]
    licence: str
    billions: float
    gigabytes: float
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Opening:
    """How a model is opened for generation, where that is not as usual.

    Args:
        variant: of the weight files, such as fp16.
        offload: what leaves a GPU when it is not needed: whole models (`model`), blocks while the ones before them
            compute (`group`), or each layer (`sequential`): less memory from left to right, and slower.
        lora: adapters, each a run's folder or a safetensors file.
        parts: further parts by the name that the family gives them, such as `motion_adapter`: -> folder.
        without: components that are not needed, and left out of memory.
        quantize: how the denoisers' weights are held, see `precision`; None: in the pipeline's own precision.
        layerwise_casting: hold the denoisers' weights as fp8, and cast them while a layer computes.
        pipeline: class of diffusers to open the folder as, in place of the one that it names.
    """

    variant: str | None = None
    offload: Offload = "none"
    lora: Sequence[Path] = ()
    parts: Mapping[str, Path] = field(default_factory=dict)
    without: Sequence[str] = ()
    quantize: Quantization | None = None
    layerwise_casting: bool = False
    pipeline: str | None = None


AS_USUAL = Opening()


class Family(Protocol):
    """What trainer and generation need to know of a kind of model; they never learn its name.

    `modules` are the pipeline's trainable parts by component name: the trainer hands in its own (wrapped) ones, so
    that the same lines serve one process and many.
    """

    embeddings: Callable[[str], dict[str, Tensor]] | None
    """Caption -> what was stored of it by `data prepare`, in place of a frozen text encoder that is not in memory."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in on a GPU."""
        ...

    @property
    def options(self) -> frozenset[str]:
        """Names of sampling options that only some families have, such as `motion_bucket_id`."""
        ...

    @property
    def frozen(self) -> tuple[str, ...]:
        """Components whose work `embed`, `encode_video` and `encode_image` do ahead of training; none where codec and
        text encoder are the run's own choice."""
        ...

    @property
    def denoiser_names(self) -> tuple[str, ...]:
        """Components that predict."""
        ...

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Names of the layers that adapters go to when no others are named."""
        ...

    @property
    def comfyui_prefix(self) -> str | None:
        """What ComfyUI's names of an adapter's layers begin with; None where it has no names for this family."""
        ...

    @property
    def comfyui_names(self) -> Mapping[str, str]:
        """Part of a layer's name in diffusers -> the same in ComfyUI."""
        ...

    @property
    def timesteps(self) -> str:
        """How it draws timesteps in training when it is not told otherwise: uniform or logit_normal."""
        ...

    def open(
        self,
        path: Path,
        device: torch.device,
        dtype: torch.dtype,
        trainable_only: bool = False,
        opening: Opening = AS_USUAL,
    ) -> Any:
        """The pipeline in a folder; with `trainable_only` its frozen parts are left there, out of memory."""
        ...

    def tasks(self, pipe: Any) -> tuple[Task, ...]:
        """What this model can make videos from."""
        ...

    def rules(self, pipe: Any) -> ShapeRules:
        """The videos that it can take."""
        ...

    def defaults(self, pipe: Any) -> Defaults:
        """How it makes videos when it is not told otherwise."""
        ...

    def schedule(self, pipe: Any) -> Schedule:
        """The noise schedule it was trained with."""
        ...

    def prediction(self, pipe: Any) -> str:
        """What its denoiser predicts: epsilon, v, x0 or flow."""
        ...

    def denoisers(self, pipe: Any) -> dict[str, nn.Module]:
        """Component name -> module that predicts: one, or several that share the noise levels."""
        ...

    def trainable(self, pipe: Any) -> dict[str, nn.Module]:
        """Component name -> module that learns without adapters: the denoisers, and what learns with them."""
        ...

    def learns(self, name: str) -> bool:
        """Whether a parameter of these modules, COMPONENT.LAYER.weight, learns; the others stay as they are."""
        ...

    def encode_text(self, pipe: Any, modules: dict[str, nn.Module], captions: Sequence[str]) -> dict[str, Tensor]:
        """Captions -> condition of the denoiser."""
        ...

    def embed(self, pipe: Any, caption: str) -> dict[str, Tensor]:
        """What the denoiser is told of one caption: name -> tensor without a batch axis. Needs the tokenizers and the
        components named `text_encoder...` only."""
        ...

    def encode_video(self, pipe: Any, video: Tensor) -> Latents:
        """`[B, 3, T, H, W]` in [-1, 1] -> what is denoised, `[B, C, t, h, w]`, normalised."""
        ...

    def encode_image(self, pipe: Any, video: Tensor) -> dict[str, Tensor]:
        """What `conditions` needs of the first frame, or of the video `[1, 3, T, H, W]`, to be stored ahead of
        training: name -> tensor without a batch axis. There it is found in `items` as `image_NAME`."""
        ...

    def conditions(
        self, pipe: Any, items: Mapping[str, Any], x_0: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """What else the denoiser is told of a batch besides its captions, such as the latents of first frames.

        Args:
            items: of the loader: `video` `[B, 3, T, H, W]` in [-1, 1] on the device; or what was encoded ahead:
                `mean` and `logvar` `[B, C, t, h, w]`, and where `--save_image_latents` was given, `image_NAME` for
                each tensor of `encode_image`.
            x_0: `[B, C, t, h, w]`, what is denoised.
            generators: one for each clip, for whatever is drawn.
        """
        ...

    def predict(
        self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]
    ) -> Tensor:
        """The denoiser's prediction `[B, C, t, h, w]` at timesteps `[B]`."""
        ...

    def sample(
        self,
        pipe: Any,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        on_step: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> Tensor:
        """Videos `[B, 3, T, H, W]` in [-1, 1], one for each prompt and generator.

        Args:
            on_step: called with (steps done, steps).
            settings: the fields of `Defaults`; `image`, `last_image` uint8 `[H, W, 3]`, `video` uint8
                `[T, H, W, 3]` and `strength` where they were given; the family's own `options`.
        """
        ...

    def adapt(self, pipe: Any, shape: Bucket, fps: float | None) -> None:
        """What it is going to be trained on: what it makes from then on when it is not told otherwise."""
        ...

    def use_text_encoder(self, pipe: Any, name: str) -> Any:
        """The pipeline, with another text encoder whose texts it is going to be trained to follow."""
        ...

    def use_sampler(self, pipe: Any, name: str) -> None:
        """Change the pipeline's scheduler to another sampler of the same schedule, by our name."""
        ...

    def save(self, pipe: Any, folder: Path) -> None:
        """Write the whole pipeline as a folder that `open` and plain diffusers read."""
        ...


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
    `final/unet`, or the name of a published model.

    Raises:
        ModelError: a published model is named that is not on this machine.
    """
    path = Path(path)
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


def placed(pipe: Any, device: torch.device, offload: Offload) -> Any:
    """The pipeline on its device, or moving there part by part.

    Raises:
        UsageError: there is no GPU to offload from.
    """
    if offload == "none":
        return pipe.to(device)
    if device.type == "cpu":
        raise UsageError(f"--offload {offload} moves models off a GPU, and the device is the CPU: leave it out.")
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.enable_group_offload(
            onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda", non_blocking=True
        )
    return pipe


def choose_device(name: str = "auto") -> torch.device:
    """The device by name; auto takes CUDA, then MPS, then the CPU.

    Raises:
        UsageError: the name is unknown, or the device is not in this machine.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if name.split(":")[0] not in available:
        raise UsageError(f"There is no device {name!r}. Choose auto, cpu, cuda or mps.")
    if not available[name.split(":")[0]]:
        there = [kind for kind, there in available.items() if there]
        raise UsageError(f"The device {name!r} is not in this machine. Here are: {', '.join(there)}.")
    return torch.device(name)


def choose_dtype(name: str) -> torch.dtype | None:
    """The dtype by name, short or long; None for auto.

    Raises:
        UsageError: the name is unknown.
    """
    short = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    known = ("float32", "bfloat16", "float16")
    if name == "auto":
        return None
    if short.get(name, name) not in known:
        raise UsageError(f"There is no dtype {name!r}. Choose auto, {', '.join(known)}.")
    return getattr(torch, short.get(name, name))
