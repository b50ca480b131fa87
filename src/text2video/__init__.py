"""text2video: captioned clips in, a text-to-video model out.

The public names are imported when first used, so that `text2video --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import video
    from .config import RunConfig
    from .data.buckets import BucketSampler
    from .data.dataset import TextVideoDataset
    from .diffusion.objectives import TextToVideoDiffusion
    from .families.opening import load
    from .models.latent_unet import LatentUNet3D
    from .models.text import TextEncoder
    from .models.transformer import VideoTransformer
    from .models.unet3d import UNet3D
    from .models.video_tokenizer import VideoTokenizer
    from .models.video_vae import VideoVAE
    from .pipelines import TextToVideoPipeline
    from .training.trainer import train

_HOMES = {
    "BucketSampler": "data.buckets",
    "LatentUNet3D": "models.latent_unet",
    "RunConfig": "config",
    "TextEncoder": "models.text",
    "TextToVideoDiffusion": "diffusion.objectives",
    "TextToVideoPipeline": "pipelines",
    "TextVideoDataset": "data.dataset",
    "UNet3D": "models.unet3d",
    "VideoTokenizer": "models.video_tokenizer",
    "VideoTransformer": "models.transformer",
    "VideoVAE": "models.video_vae",
    "load": "families.opening",
    "train": "training.trainer",
}

__all__ = [
    "BucketSampler",
    "LatentUNet3D",
    "RunConfig",
    "TextEncoder",
    "TextToVideoDiffusion",
    "TextToVideoPipeline",
    "TextVideoDataset",
    "UNet3D",
    "VideoTokenizer",
    "VideoTransformer",
    "VideoVAE",
    "load",
    "train",
    "video",
]


def __getattr__(name: str) -> Any:
    if name == "video":
        return import_module(".video", __name__)
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
