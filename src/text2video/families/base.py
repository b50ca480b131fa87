"""Families: what the parts of one kind of model are, and how they are wired."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..diffusion.schedules import Schedule
from ..models.codecs import Latents
from ..models.conditions import Condition
from ..sizes import Bucket, ShapeRules
from .precision import Quantization

Task = Literal["text-to-video", "image-to-video", "video-to-video", "reconstruction"]
Offload = Literal["none", "model", "sequential", "group"]


@dataclass(frozen=True)
class Defaults:
    """How a model makes videos when it is not told otherwise; frames, pixels, frames a second, steps, or None where it
    has none."""

    num_frames: int
    height: int
    width: int
    fps: float
    num_inference_steps: int | None
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
        gigabytes: of the files that are needed, on the disk; None: not known.
        parts: what else is needed: name as in `Opening.parts` -> its repository. It counts above.
    """

    repository: str
    tasks: tuple[Task, ...]
    licence: str
    billions: float
    gigabytes: float | None
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

    def begin(self, pipe: Any, videos: Callable[[], Iterable[Tensor]]) -> None:
        """What a new model takes from the training clips before its first step.

        Args:
            videos: some of them, each `[1, 3, T, H, W]` in [-1, 1]; the same each time.
        """
        ...

    def settle(self, pipe: Any, videos: Callable[[], Iterable[Tensor]]) -> None:
        """What is measured on the training clips whenever the model is saved; arguments as of `begin`."""
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
        """The denoiser's prediction `[B, C, t, h, w]` at timesteps `[B]`; of those that are `streaming.is_causal` also
        at one for each frame, `[B, t]`."""
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


@runtime_checkable
class Conditioned(Protocol):
    """A family whose models can have conditions besides the caption. `sample` takes `conditions`, name -> what its kind
    reads, and `condition_scales`, name -> guidance scale."""

    def own_conditions(self, pipe: Any) -> dict[str, Condition]:
        """Those of a model, by name."""
        ...


@runtime_checkable
class Streams(Protocol):
    """A family with models that make a video while it is taken, of any length."""

    def stream(
        self, pipe: Any, prompt: str, generator: torch.Generator, window: int | None = None, **settings: Any
    ) -> Iterator[Tensor]:
        """The next frames `[3, T, H, W]` in [-1, 1].

        Args:
            window: how many frames before it a block sees.
            settings: the fields of `Defaults`.
        """
        ...
