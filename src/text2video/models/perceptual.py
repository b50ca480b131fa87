"""Features in which an error is closer to what people see than in pixels.

`LaplacianFeatures` need no download: the bands of a Laplacian pyramid, each divided by the contrast around it, which is
what the eye's first stages do (Laparra et al. 2016, "Perceptual image quality assessment using a normalized Laplacian
pyramid"). `ClipFeatures` are the layers of a CLIP vision model that is on the disk.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import ModelError


class LaplacianFeatures(nn.Module):
    """Bands of each frame's brightness and colours, divided by the local contrast.

    Args:
        levels: bands; each has half the height and width of the one before.
        floor: contrast below which a band is not enlarged, in units of pixels' [-1, 1].
    """

    def __init__(self, levels: int = 3, floor: float = 0.1):
        super().__init__()
        self.levels, self.floor = levels, floor

    def forward(self, video: Tensor) -> list[Tensor]:
        """`[B, 3, T, H, W]` -> the bands `[B * T, 3, H / 2^k, W / 2^k]`."""
        frames = video.transpose(1, 2).flatten(0, 1)  # [B * T, 3, H, W]
        bands = []
        for _ in range(self.levels):
            if min(frames.shape[-2:]) < 4:
                break
            smaller = F.avg_pool2d(frames, 2)
            band = frames - F.interpolate(smaller, size=frames.shape[-2:], mode="bilinear", align_corners=False)
            contrast = F.avg_pool2d(band.abs(), 5, stride=1, padding=2, count_include_pad=False)
            bands.append(band / (self.floor + contrast))
            frames = smaller
        return bands


class ClipFeatures(nn.Module):
    """Layers of a CLIP vision model (Radford et al. 2021), of a few frames of each video.

    Args:
        folder: of the model, or of a whole CLIP.
        frames: of each video, evenly spaced.

    Raises:
        ModelError: there is none that can be loaded.
    """

    def __init__(self, folder: Path, frames: int = 2):
        super().__init__()
        from transformers import CLIPVisionModel

        try:
            self.model = CLIPVisionModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"The CLIP vision model in {str(folder)!r} cannot be loaded: {reason}") from None
        self.model.eval().requires_grad_(False)
        self.frames = frames
        # of the pictures that CLIP was trained on
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1), persistent=False)

    def forward(self, video: Tensor) -> list[Tensor]:
        """`[B, 3, T, H, W]` in [-1, 1] -> some of the layers, `[B * frames, L, D]`, each token of mean square 1."""
        count = video.shape[2]
        places = torch.linspace(0, count - 1, min(self.frames, count)).round().long()
        frames = video[:, :, places.to(video.device)].transpose(1, 2).flatten(0, 1)  # [B * frames, 3, H, W]
        side: Any = self.model.config.image_size
        frames = F.interpolate(frames, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
        pixels = ((frames + 1) / 2 - self.mean) / self.std
        layers = self.model(pixel_values=pixels, output_hidden_states=True).hidden_states
        chosen = layers[1 :: max(1, len(layers) // 4)]
        return [F.normalize(layer, dim=-1) * layer.shape[-1] ** 0.5 for layer in chosen]
