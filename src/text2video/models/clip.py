"""How well a video and a caption fit, by a CLIP model (Radford et al., "Learning Transferable Visual Models", 2021)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import ModelError


class ClipScorer:
    """Directions of frames and of captions: their product is the cosine similarity of CLIPScore.

    Args:
        folder: of a transformers CLIP model with its tokenizer and image processor; or a name that is on this machine.

    Raises:
        ModelError: there is no such model.
    """

    def __init__(self, folder: str | Path):
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        try:
            self.model: Any = CLIPModel.from_pretrained(folder, use_safetensors=True).eval().requires_grad_(False)
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            self.processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{folder} is no CLIP model that can be opened ({str(error).splitlines()[0]}). Give the folder of one, "
                "with its tokenizer and image processor; `hf download openai/clip-vit-base-patch32` fetches one."
            ) from None

    @torch.inference_mode()
    def of_frames(self, frames: np.ndarray) -> np.ndarray:
        """uint8 `[T, H, W, 3]` -> the mean direction of the frames, float32 `[D]`."""
        pixels = self.processor([Image.fromarray(frame) for frame in frames], return_tensors="pt").pixel_values
        found = _unit(self.model.get_image_features(pixel_values=pixels).pooler_output)  # [T, D]
        return _unit(found.mean(0, keepdim=True))[0].numpy()

    @torch.inference_mode()
    def of_captions(self, captions: Sequence[str]) -> np.ndarray:
        """Captions -> their directions, float32 `[N, D]`; what is longer than the model reads is cut."""
        limit = self.model.config.text_config.max_position_embeddings
        parts = []
        for start in range(0, len(captions), 64):
            tokens = self.tokenizer(
                list(captions[start : start + 64]), padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
            found = self.model.get_text_features(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            ).pooler_output
            parts.append(_unit(found).numpy())
        return np.concatenate(parts)


def _unit(values: torch.Tensor) -> torch.Tensor:
    return values / values.norm(dim=-1, keepdim=True).clamp(min=1e-9)
