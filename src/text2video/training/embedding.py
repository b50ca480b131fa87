"""Captions embedded once, before the first step: the text encoders are not in memory while a model trains."""

import gc
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..families.base import Family
from ..pipelines import leave_on_disk

ROOM = 4 << 30  # bytes of embeddings in memory

logger = logging.getLogger("text2video")


@torch.no_grad()
def embed_ahead(
    family: Family,
    pipe: Any,
    captions: Sequence[str],
    device: torch.device,
    on_done: Callable[[int, int], None] | None = None,
) -> bool:
    """Embed all captions of a run on a device, then leave the text encoders on the disk; whether that was done.

    It is not where the model has no frozen ones on the disk, or where the embeddings would fill the memory: `data
    prepare` does it for any number.

    Args:
        pipe: on the CPU.
        on_done: called with (captions, of how many).
    """
    names = [name for name in family.frozen if name.startswith("text_encoder")]
    folders: dict[str, Path] = {name: pipe.source / name for name in names if getattr(pipe, name, None) is not None}
    if not folders or not all(folder.is_dir() for folder in folders.values()):
        return False
    others = {
        name: part for name, part in pipe.components.items() if isinstance(part, nn.Module) and name not in folders
    }
    dtype = getattr(pipe, next(iter(folders))).dtype
    pipe.register_modules(**dict.fromkeys(others))  # so that only text encoders are moved
    try:
        pipe.to(device)
        known: dict[str, dict[str, Tensor]] = {}
        for caption in captions:
            known[caption] = {name: value.cpu() for name, value in family.embed(pipe, caption).items()}
            if sum(value.nbytes for value in known[caption].values()) * len(captions) > ROOM:
                logger.info("%d captions are too many to be embedded ahead: see data prepare", len(captions))
                return False
            if on_done:
                on_done(len(known), len(captions))
    finally:
        pipe.register_modules(**others)
    leave_on_disk(pipe, folders, dtype)
    family.embeddings = known.__getitem__
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    logger.info("%d captions are embedded, and %s is out of memory", len(captions), " and ".join(folders))
    return True
