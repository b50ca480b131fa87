"""Tiny Open-Sora parts with weights that follow from a formula, and what the published code answered with them."""

import json
import math
import re
from pathlib import Path

import torch
from safetensors.torch import save_file

from text2video.models.opensora import OpenSoraTransformer
from text2video.models.opensora_vae import OpenSoraVAE

HERE = Path(__file__).parent / "models"
TRANSFORMER = {"depth": 2, "hidden_size": 32, "num_heads": 2, "caption_channels": 12, "model_max_length": 6}
VAE_2D = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4, "micro_batch_size": 4}
VAE_TEMPORAL = {"filters": 8, "num_res_blocks": 1, "num_groups": 4}


def wave(shape, phase: int) -> torch.Tensor:
    """Numbers in [-1, 1] that look random and are the same on every machine."""
    x = torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 12.9898 + phase * 78.233) * 43758.5453
    return ((x - x.floor()) * 2 - 1).float().view(shape)


@torch.no_grad()
def fill(model):
    """The model with every weight from `wave`; what the constructor computes stays."""
    state = model.state_dict()
    for k, name in enumerate(sorted(state)):
        if name not in ("rope.freqs", "scale", "shift"):
            size = 3 / state[name][0].numel() if state[name].ndim > 1 else 0.05
            one = state[name].ndim == 1 and name.endswith("weight")  # of a norm
            state[name].copy_(wave(state[name].shape, k) * math.sqrt(size) + one)
    return model.eval()


def tiny_transformer(**change) -> OpenSoraTransformer:
    return fill(OpenSoraTransformer(**TRANSFORMER | change))


def tiny_vae(**change) -> OpenSoraVAE:
    return fill(OpenSoraVAE(vae_2d=VAE_2D, vae_temporal=VAE_TEMPORAL, **change))


def write_published(folder: Path, model, config: dict) -> Path:
    """A folder as the authors published it: config.json of transformers, and model.safetensors."""
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def published_transformer(folder: Path, **change) -> Path:
    fields = {"model_type": "STDiT3", "architectures": ["STDiT3"], "input_size": [None, None, None], "drop_path": 0.0}
    fields |= {"in_channels": 4, "patch_size": [1, 2, 2], "input_sq_size": 512, "enable_flash_attn": True}
    return write_published(folder, tiny_transformer(**change), fields | TRANSFORMER | change)


def published_vae(folder: Path, **change) -> Path:
    image = {"type": "VideoAutoencoderKL", "from_pretrained": "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers"}
    image |= {"subfolder": "vae", "local_files_only": False}
    fields = {"model_type": "VideoAutoencoderPipeline", "cal_loss": False, "freeze_vae_2d": False}
    fields |= {"vae_2d": image | VAE_2D, "vae_temporal": {"type": "VAE_Temporal_SD", "from_pretrained": None}}
    fields["vae_temporal"] |= VAE_TEMPORAL
    fields |= {"micro_frame_size": 17, "shift": [-0.1, 0.34, 0.27, 0.98], "scale": [3.85, 2.32, 2.33, 3.06]}
    return write_published(folder, tiny_vae(**change), fields | change)


def recorded(name: str) -> torch.Tensor:
    """What the published code answered."""
    return torch.tensor(json.loads((HERE / "opensora_recorded.json").read_text())[name])


def some(x: torch.Tensor) -> torch.Tensor:
    """The numbers of a tensor that were recorded."""
    return x.flatten()[:: max(1, x.numel() // 97)]


def published_shapes(part: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a published part."""
    text = (HERE / "opensora_keys.txt").read_text()
    section = text.split(f"[{part}]")[1].split("[")[0].splitlines()[1:]
    rows = [line.split() for line in section if line]
    return {name: tuple(map(int, shape.split("x"))) for row, shape in rows for name in _numbered(row)}


def _numbered(name: str) -> list[str]:
    found = re.search(r"\{(\d+)-(\d+)\}", name)
    if not found:
        return [name]
    numbers = range(int(found[1]), int(found[2]) + 1)
    return [n for i in numbers for n in _numbered(name[: found.start()] + str(i) + name[found.end() :])]
