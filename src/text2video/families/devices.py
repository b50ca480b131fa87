"""Where a model computes and in what: devices and dtypes by name, what leaves a GPU, and what a CPU keeps."""

import ctypes
import sys
from typing import Any

import torch

from ..errors import UsageError
from .base import Offload


def placed(pipe: Any, device: torch.device, offload: Offload) -> Any:
    """The pipeline on its device, or moving there part by part.

    Raises:
        UsageError: there is no GPU to offload from.
    """
    if device.type == "cpu":
        keep_freed_memory()
    if offload == "none":
        return pipe.to(device)
    if device.type == "cpu":
        raise UsageError(f"--offload {offload} moves models off a GPU, and the device is the CPU: leave it out.")
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.enable_group_offload(
            onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda", non_blocking=True
        )
    return pipe


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


def choose_dtype(name: str) -> torch.dtype | None:
    """The dtype by name, short or long; None for auto.

    Raises:
        UsageError: the name is unknown.
    """
    short = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    known = ("float32", "bfloat16", "float16")
    if name == "auto":
        return None
    if short.get(name, name) not in known:
        raise UsageError(f"There is no dtype {name!r}. Choose auto, {', '.join(known)}.")
    return getattr(torch, short.get(name, name))


def keep_freed_memory() -> None:
    """Let the process keep up to 1 GiB that tensors have left, for the next ones; glibc alone can be told so.

    Otherwise each large tensor is new memory from the system, which is cleared a page at a time, tens of thousands of
    pages in a training step of a small model. Said twice, it is the same.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        trim_threshold, mmap_threshold = -1, -3  # the numbers of malloc.h
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**30)
