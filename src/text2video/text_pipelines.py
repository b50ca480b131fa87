"""What our pipelines from text to videos have in common: a text encoder, diffusers' manner of calling, and a folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from safetensors import SafetensorError
from torch import Tensor, nn

from .errors import ModelError, UsageError
from .models.text import TextEncoder

DENOISERS = ("unet", "transformer")
"""What a denoiser is called among a pipeline's components."""


class TextToVideoOutput(BaseOutput):
    """`frames`: one entry a video, as `output_type` says."""

    frames: Any


class TextPipeline(DiffusionPipeline):
    """Text -> videos: a model that follows a text, `unet` or `transformer`, and a text encoder with its tokenizer."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """The pipeline saved in a folder. Weights are read from safetensors only.

        Raises:
            ModelError: there is no such folder, or it holds no pipeline of ours.
        """
        folder = Path(pretrained_model_name_or_path)
        if not (folder / "model_index.json").is_file():
            raise ModelError(
                f"{str(folder)!r} is no model folder: it has no model_index.json. "
                "Give the `final` folder of a run, or another diffusers folder."
            )
        try:
            pipe = super().from_pretrained(folder, use_safetensors=True, **kwargs)
        except (OSError, ValueError, SafetensorError) as error:
            if "trust_remote_code" in str(error):
                classes = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
                own = next(":".join(classes[name]) for name in DENOISERS if (classes.get(name) or [None])[0])
                raise ModelError(
                    f"The model in {str(folder)!r} is of a class of your own, {own}. Import its "
                    "module first, or name it by --model_class module:Class."
                ) from None
            raise ModelError(f"The model in {str(folder)!r} cannot be loaded: {error}") from None
        for component in pipe.components.values():
            if isinstance(component, nn.Module):
                aligned(component).eval()
        return pipe

    @property
    def denoiser_name(self) -> str:
        """What the denoiser is called among the components."""
        return "unet" if self.transformer is None else "transformer"

    @property
    def denoiser(self) -> Any:
        """The U-Net or the transformer."""
        return getattr(self, self.denoiser_name)

    def reader(self) -> TextEncoder:
        """What reads prompts: the tokenizer with its text encoder."""
        return TextEncoder(self.tokenizer, self.text_encoder)

    def encode_prompt(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Prompts -> the denoiser's keyword arguments."""
        return self.reader()(prompts).condition()

    def encode_prompts(
        self, prompts: Sequence[str], negative_prompt: str, scale: float, further: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor] | None, dict[str, Tensor]]:
        """The negative condition, none at guidance scale 1, and the positive one; both with what is told `further`."""
        if scale == 1.0:
            return None, {**further, **self.encode_prompt(prompts)}
        # encoded together, so that both have the same number of tokens
        negative, ask = _halves(self.encode_prompt([negative_prompt] * len(prompts) + list(prompts)))
        return {**further, **negative}, {**further, **ask}

    @torch.no_grad()
    def videos(
        self,
        prompt: str | list[str],
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        **how: Any,
    ) -> TextToVideoOutput | tuple[Any]:
        """Videos in the manner of diffusers' pipelines, sampled one by one; see `TextToVideoPipeline.__call__`."""
        if output_type not in ("pil", "np", "pt"):
            raise UsageError(f"output_type is {output_type!r}: choose pil, np or pt.")
        prompts = [p for p in ([prompt] if isinstance(prompt, str) else prompt) for _ in range(num_videos_per_prompt)]
        if not prompts:
            raise UsageError("There are no videos to make: give a prompt, and 1 or more videos for each.")
        if not isinstance(generator, list):
            generator = [generator or torch.Generator().manual_seed(torch.seed() % 2**63)] * len(prompts)
        if len(generator) != len(prompts):
            raise UsageError(
                f"{len(generator)} generators for {len(prompts)} videos: give one for each, or one in all."
            )
        own: Any = self  # each has a `sample` with settings of its own
        videos = [own.sample([p], [g], **how) for p, g in zip(prompts, generator, strict=True)]
        frames: Any = torch.cat(videos).permute(0, 2, 1, 3, 4).add(1).div(2)  # [B, T, C, H, W] in [0, 1]
        if output_type != "pt":
            frames = frames.permute(0, 1, 3, 4, 2).cpu().numpy()  # [B, T, H, W, C]
        if output_type == "pil":
            frames = [self.numpy_to_pil(video) for video in frames]
        return TextToVideoOutput(frames=frames) if return_dict else (frames,)

    @staticmethod
    def numpy_to_pil(images: np.ndarray) -> list[Any]:
        """Frames `[T, H, W, C]` in [0, 1] as a list of T images."""
        return DiffusionPipeline.numpy_to_pil(images)


def aligned(module: Any) -> Any:
    """A loaded module with its weights copied: they lie where the file had them, and matrix products differ by 2e-6
    unless they are aligned anew."""
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()
    return module


def _halves(condition: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    first, second = zip(*(value.chunk(2) for value in condition.values()), strict=True)
    return dict(zip(condition, first, strict=True)), dict(zip(condition, second, strict=True))
