"""What the families of models that are trained here have in common, and what those without noise levels have not."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.utils import logging
from safetensors import SafetensorError
from torch import Tensor

from ..diffusion.schedules import Schedule
from ..errors import ModelError, UsageError
from ..models.codecs import Latents
from ..pipelines import save
from ..sizes import Bucket
from .base import Opening, Task


class OwnFamily:
    """A model of text to video that is trained on videos as they are and told nothing but captions; see `Family`."""

    dtype = torch.float32
    options: frozenset[str] = frozenset()
    frozen: tuple[str, ...] = ()
    lora_targets: tuple[str, ...] = ()
    comfyui_prefix: str | None = None
    comfyui_names: Mapping[str, str] = {}
    timesteps = "uniform"
    embeddings: Callable[[str], dict[str, Tensor]] | None = None

    def tasks(self, pipe: Any) -> tuple[Task, ...]:
        """Videos from text."""
        return ("text-to-video",)

    def learns(self, name: str) -> bool:
        """All weights."""
        return True

    def begin(self, pipe: Any, videos: Callable[[], Iterable[Tensor]]) -> None:
        """Nothing."""

    def settle(self, pipe: Any, videos: Callable[[], Iterable[Tensor]]) -> None:
        """Nothing."""

    def embed(self, pipe: Any, caption: str) -> dict[str, Tensor]:
        """What learns with the model is not embedded ahead."""
        return {}

    def encode_video(self, pipe: Any, video: Tensor) -> Latents:
        """The video itself."""
        return Latents(video)

    def encode_image(self, pipe: Any, video: Tensor) -> dict[str, Tensor]:
        """Nothing is stored ahead."""
        return {}

    def conditions(
        self, pipe: Any, items: Mapping[str, Any], x_0: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """Nothing but captions."""
        return {}

    def adapt(self, pipe: Any, shape: Bucket, fps: float | None) -> None:
        """It keeps the shape that it was made for."""

    def use_text_encoder(self, pipe: Any, name: str) -> Any:
        """It keeps the one that it was made with."""
        return pipe

    def save(self, pipe: Any, folder: Path) -> None:
        """The pipeline as a diffusers folder."""
        save(pipe, folder)


class WithoutLevels(OwnFamily):
    """A model that does not denoise: it has no noise levels, so no schedule and no sampler."""

    no_levels: ClassVar[str]
    """Says so to who asks for them."""

    def schedule(self, pipe: Any) -> Schedule:
        """It has none.

        Raises:
            UsageError: always.
        """
        raise UsageError(self.no_levels)

    def prediction(self, pipe: Any) -> str:
        """As `schedule`."""
        raise UsageError(self.no_levels)

    def use_sampler(self, pipe: Any, name: str) -> None:
        """As `schedule`."""
        raise UsageError(f"{self.no_levels} Leave out --scheduler.")


def opened(pipeline: Any, path: Path, dtype: torch.dtype, opening: Opening, **arguments: Any) -> Any:
    """A pipeline of ours from its folder.

    Args:
        arguments: further ones of `from_pretrained`, such as a part that is not taken from there.

    Raises:
        ModelError: it cannot be loaded.
        UsageError: it is to be opened in a way that only others can be.
    """
    if opening.parts or opening.variant:
        raise UsageError("A model trained here takes no --variant and no further parts: leave them out.")
    logging.disable_progress_bar()  # of loading, which takes no time
    try:
        return pipeline.from_pretrained(path, dtype=dtype, **arguments)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"The model in {str(path)!r} cannot be loaded: {error}") from None
    finally:
        logging.enable_progress_bar()
