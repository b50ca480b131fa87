"""Families: the parts of one kind of model and how they are wired, and the table that finds a model's family."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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

# Pipeline class in model_index.json -> module and class of its family.
FAMILIES = {
    "TextToVideoPipeline": "native:NativeFamily",
    "TextToVideoSDPipeline": "modelscope:ModelScope",
    "VideoToVideoSDPipeline": "modelscope:ModelScope",
}
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
    """

    repository: str
    tasks: tuple[Task, ...]
    licence: str
    billions: float
    gigabytes: float


@dataclass(frozen=True)
class Opening:
    """How a model is opened for generation, where that is not as usual.

    Args:
        variant: of the weight files, such as fp16.
        offload: what leaves a GPU when it is not needed: whole models (`model`), blocks while the ones before them
            compute (`group`), or each layer (`sequential`): less memory from left to right, and slower.
        lora: adapters, each a run's folder or a safetensors file.
        parts: further parts by the name that the family gives them, such as `motion_adapter`: -> folder.
    """

    variant: str | None = None
    offload: Offload = "none"
    lora: Sequence[Path] = ()
    parts: Mapping[str, Path] = field(default_factory=dict)


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
        """Component name -> module that learns when all weights do: the denoisers, and what learns with them."""
        ...

    def encode_text(self, pipe: Any, modules: dict[str, nn.Module], captions: Sequence[str]) -> dict[str, Tensor]:
        """Captions -> condition of the denoiser."""
        ...

    def encode_video(self, pipe: Any, video: Tensor) -> Latents:
        """`[B, 3, T, H, W]` in [-1, 1] -> what is denoised, `[B, C, t, h, w]`, normalised."""
        ...

    def conditions(
        self, pipe: Any, items: Mapping[str, Any], x_0: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """What else the denoiser is told of a batch besides its captions, such as the latents of first frames.

        Args:
            items: of the loader: `video` `[B, 3, T, H, W]`, or what was encoded ahead.
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
            settings: the fields of `Defaults` except fps; `image`, `last_image` uint8 `[H, W, 3]`, `video` uint8
                `[T, H, W, 3]` and `strength` where they were given; the family's own `options`.
        """
        ...

    def adapt(self, pipe: Any, shape: Bucket, fps: float | None) -> None:
        """What it is going to be trained on: what it makes from then on when it is not told otherwise."""
        ...

    def use_sampler(self, pipe: Any, name: str) -> None:
        """Change the pipeline's scheduler to another sampler of the same schedule, by our name."""
        ...

    def save(self, pipe: Any, folder: Path) -> None:
        """Write the whole pipeline as a folder that `open` and plain diffusers read."""
        ...


def family_of(path: Path) -> Family:
    """The family of the model in a folder, by its model_index.json.

    Raises:
        ModelError: it is no model folder, or of a family that is not known.
    """
    index = path / "model_index.json"
    if not index.is_file():
        raise ModelError(
            f"{str(path)!r} is no model: it has no model_index.json. Give a run's folder, its `final` folder, "
            "or another diffusers folder."
        )
    try:
        kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (ValueError, AttributeError):
        raise ModelError(f"{index} is damaged: it is no JSON object. Save the model again.") from None
    if kind not in FAMILIES:
        raise ModelError(f"The model in {str(path)!r} is a {kind}. Known are {', '.join(FAMILIES)}.")
    module, name = FAMILIES[kind].split(":")
    return getattr(import_module(f".{module}", __package__), name)()


def open_model(
    path: str | Path, device: torch.device, dtype: torch.dtype | None = None, opening: Opening = AS_USUAL
) -> tuple[Family, Any]:
    """The family and the pipeline that a path means: see `model_folder`; an adapter's folder means its base with it.

    Args:
        dtype: of the weights; None: float32 on a CPU, elsewhere the family's own.

    Raises:
        ModelError: there is none, or an adapter fits nothing in it.
    """
    folder, adapters = model_folder(path), list(opening.lora)
    if base := lora.base_of(folder):
        folder, adapters = model_folder(base), [folder, *adapters]
    family = family_of(folder)
    pipe = family.open(folder, device, dtype or own_dtype(family, device), opening=opening)
    for number, adapter in enumerate(adapters):
        lora.apply(family.denoisers(pipe), lora.read(model_folder(adapter), pipe), f"lora{number}")
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
