"""`text2video doctor`: what this machine can do, and what is missing."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .terminal import say

# Extra of the package -> the module that it brings, and what it is for.
EXTRAS = {
    "caption": ("openai", "captions by a model behind an endpoint"),
    "datasets": ("datasets", "data sets of the Hugging Face Hub"),
    "ray": ("ray", "preparing data on several machines"),
    "remote": ("aiohttp", "clips behind https://"),
    "wandb": ("wandb", "tracking on wandb"),
}
CODECS = {"h264": "MP4", "hevc": "H.265", "vp9": "WebM", "av1": "AV1", "gif": "GIF"}


def doctor() -> None:
    """Say what this machine can do and what is missing."""
    import torch

    for name, found in (*basics(torch), *memory(), *video(), *tools(torch), *extras()):
        say(f"{name:14s} {found}")


def basics(torch) -> Iterator[tuple[str, str]]:
    """System, versions and devices."""
    yield "system", f"{platform.system()} {platform.release()}, {os.cpu_count()} processors"
    yield "Python", f"{sys.version.split()[0]} in {sys.prefix}"
    for package in ("text2video", "torch", "diffusers", "transformers", "accelerate", "peft"):
        yield package, installed(package)
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        half = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16: train with --mixed_precision fp16"
        yield f"GPU {index}", f"{card.name}, {card.total_memory / 1e9:.1f} GB, {half}"
    if torch.backends.mps.is_available():
        yield "GPU", "Apple, shares main memory"
    if not (torch.cuda.device_count() or torch.backends.mps.is_available()):
        yield (
            "GPU",
            "none that torch can use; small models train on the CPU"
            + ("" if torch.version.cuda or sys.platform == "darwin" else ". This torch was built without CUDA"),
        )
    fast = torch.cpu._is_avx512_bf16_supported()
    yield "CPU in bf16", "fast: --mixed_precision bf16 pays" if fast else "slow: leave --mixed_precision out on the CPU"


def memory() -> Iterator[tuple[str, str]]:
    """Main memory, and room on the disks that are written to."""
    import psutil

    from ..data.user_cache import user_cache

    ram = psutil.virtual_memory()
    yield "RAM", f"{ram.total / 1e9:.1f} GB, {ram.available / 1e9:.1f} GB of it free"
    for name, folder in (("disk here", Path.cwd()), ("disk of cache", user_cache())):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        yield name, f"{shutil.disk_usage(there).free / 1e9:.1f} GB free ({folder})"


def video() -> Iterator[tuple[str, str]]:
    """What videos can be read and written."""
    import av

    def has(mode: str) -> str:
        return ", ".join(kind for codec, kind in CODECS.items() if known(av.Codec, codec, mode)) or "nothing"

    yield "videos", f"PyAV {av.__version__} reads {has('r')}; writes {has('w')}"


def known(codec: Any, name: str, mode: str) -> bool:
    """Whether FFmpeg has a codec for reading (r) or writing (w)."""
    try:
        codec(name, mode)
    except Exception:  # FFmpeg's own classes of errors, which differ between versions
        return False
    return True


def tools(torch) -> Iterator[tuple[str, str]]:
    """Compiler and tracking."""
    from ..training.precision import has_compiler
    from ..training.tracking import wandb_logged_in

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    there = has_compiler(torch.device(kind))
    missing = "Triton" if kind == "cuda" else "a C++ compiler"
    yield "torch.compile", "works with --compile" if there else f"needs {missing}, which is not here; it is optional"
    yield "wandb", "logged in: runs are tracked there" if wandb_logged_in() else "not logged in: runs are tracked here"


def extras() -> Iterator[tuple[str, str]]:
    """Optional parts of the package."""
    for extra, (module, purpose) in EXTRAS.items():
        missing = f"missing, for {purpose}: pip install 'text2video[{extra}]'"
        yield f"[{extra}]", f"installed, for {purpose}" if find_spec(module) else missing


def installed(package: str) -> str:
    """The version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"
