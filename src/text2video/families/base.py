"""Families: the parts of one kind of model and how they are wired, and the table that finds a model's family."""

import json
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..diffusion.schedules import Schedule
from ..errors import ModelError, UsageError
from ..models.codecs import Latents
from ..sizes import ShapeRules

# Pipeline class in model_index.json -> module and class of its family.
FAMILIES = {"TextToVideoPipeline": "native:NativeFamily"}


class Family(Protocol):
    """What trainer and generation need to know of a kind of model; they never learn its name.

    `modules` are the pipeline's trainable parts by component name: the trainer hands in its own (wrapped) ones, so
    that the same lines serve one process and many.
    """

    embeddings: Callable[[str], Tensor] | None
    """Caption -> its embeddings `[L, D]`, in place of a frozen text encoder that is not in memory."""

    @property
    def name(self) -> str: ...

    @property
    def tasks(self) -> tuple[str, ...]: ...

    def open(self, path: Path, device: torch.device, dtype: torch.dtype, trainable_only: bool = False) -> Any:
        """The pipeline in a folder; with `trainable_only` its frozen parts are left there, out of memory."""
        ...

    def rules(self, pipe: Any) -> ShapeRules:
        """The videos that it can take."""
        ...

    def schedule(self, pipe: Any) -> Schedule:
        """The noise schedule it was trained with."""
        ...

    def trainable(self, pipe: Any) -> dict[str, nn.Module]:
        """Component name -> module that learns."""
        ...

    def encode_text(self, pipe: Any, modules: dict[str, nn.Module], captions: Sequence[str]) -> dict[str, Tensor]:
        """Captions -> condition of the denoiser."""
        ...

    def encode_video(self, pipe: Any, video: Tensor) -> Latents:
        """`[B, 3, T, H, W]` in [-1, 1] -> what is denoised, `[B, C, t, h, w]`, normalised."""
        ...

    def predict(self, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        """The denoiser's prediction `[B, C, T, H, W]` at timesteps `[B]`."""
        ...

    def sample(
        self,
        pipe: Any,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        on_step: Callable[[int, int, Tensor], None] | None = None,
        **settings: Any,
    ) -> Tensor:
        """Videos `[B, 3, T, H, W]` in [-1, 1], one for each prompt and generator."""
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


def model_folder(path: str | Path) -> Path:
    """The folder of the pipeline that a path means: a pipeline, a run, a checkpoint, or a part such as `final/unet`."""
    path = Path(path)
    # a finished run, a checkpoint, a stopped run, or a part of a pipeline, which has to exist
    pointed = [path / _read(path / name) / "model" for name in ("best", "last") if (path / name).is_file()]
    for folder in (path, path / "final", path / "model", *pointed, *([path.parent] if path.exists() else [])):
        if (folder / "model_index.json").is_file():
            return folder
    return path


def _read(pointer: Path) -> str:
    return pointer.read_text(encoding="utf-8").strip()


def load(path: str | Path, device: str = "auto", dtype: str = "float32") -> Any:
    """The pipeline of a trained model.

    Args:
        path: a run's folder, its `final` folder, a part of it such as `final/unet`, or another diffusers folder.
        device: auto, cpu, cuda or mps.
        dtype: float32, bfloat16 or float16.
    """
    folder = model_folder(path)
    return family_of(folder).open(folder, choose_device(device), choose_dtype(dtype))


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


def choose_dtype(name: str) -> torch.dtype:
    """The dtype by name, short or long.

    Raises:
        UsageError: the name is unknown.
    """
    short = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    known = ("float32", "bfloat16", "float16")
    if short.get(name, name) not in known:
        raise UsageError(f"There is no dtype {name!r}. Choose one of {', '.join(known)}.")
    return getattr(torch, short.get(name, name))
