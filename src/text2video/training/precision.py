"""What a run computes in, and whether it can be compiled, where the machine decides."""

import shutil
from importlib.util import find_spec

import torch

from ..errors import UsageError

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(name: str, device: str) -> str:
    """The mixed precision that accelerate is told; auto is bf16 where this machine computes it fast."""
    if name == "fp16" and not (device in ("auto", "cuda") and torch.cuda.is_available()):
        raise UsageError("--mixed_precision fp16 needs an NVIDIA GPU. Choose bf16, no, or auto.")
    if name != "auto":
        return name
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    if device in ("auto", "mps") and torch.backends.mps.is_available():
        return "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile can work: it needs a C++ compiler on a CPU, and Triton on a GPU."""
    if device.type == "cuda":
        return find_spec("triton") is not None
    return any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))
