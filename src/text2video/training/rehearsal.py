"""The largest batch first: what will not fit into memory is found before the first step, not hours into the run."""

import logging
from typing import TYPE_CHECKING

import torch

from ..data.packing import PackSampler
from ..errors import TrainingError
from .data import grouped

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger("text2video")


def rehearse(trainer: "Trainer") -> None:
    """One pass forward and back over the largest clips, where not all have one shape. No weight changes.

    Nothing random is used up either: a batch's draws follow from the step, and every step sets torch's seed itself.

    Raises:
        TrainingError: it does not fit into memory.
    """
    sampler, data = trainer.sampler, trainer.data.train
    if sampler.is_uniform:
        return
    largest, clips = sampler.heaviest()
    groups = grouped([data[index] for index in clips], apart=isinstance(sampler, PackSampler))
    optimizers = list(trainer.optimizers.values())
    weights = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    kept = [(buffer, buffer.clone()) for part in trainer.parts.values() for buffer in part.buffers()]
    try:
        # before its first step an optimiser does not hold the two averages of each weight that AdamW has
        begun = any(optimizer.state for optimizer in optimizers)
        room = [] if begun else [torch.empty_like(p) for p in weights for _ in range(2)]
        batches, captions = trainer.batch(0, range(len(clips)), len(clips), groups)
        for player in trainer.optimizers:
            trainer.accelerator.backward(trainer.loss(player, batches, captions))
            for optimizer in optimizers:
                optimizer.zero_grad()
        del room
        for buffer, before in kept:  # a codebook moves in the pass forward
            buffer.copy_(before)
    except RuntimeError as error:  # torch.OutOfMemoryError is one; on a CPU and on MPS there is no class of its own
        if not any(words in str(error).lower() for words in ("out of memory", "allocate memory")):
            raise
        raise TrainingError(
            f"The {largest}, does not fit into the memory of {trainer.accelerator.device}. Make that smaller (and "
            "--gradient_accumulation_steps larger), use --gradient_checkpointing, or take smaller videos."
        ) from None
    logger.info("the %s, fits into memory: %d clips were tried", largest, len(clips))
