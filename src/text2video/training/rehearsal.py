"""The largest bucket first: what will not fit into memory is found before the first step, not hours into the run."""

import logging
from typing import TYPE_CHECKING

import torch

from ..errors import TrainingError
from ..sizes import Bucket
from .data import collate

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger("text2video")


def rehearse(trainer: "Trainer") -> None:
    """One pass forward and back over clips of the largest bucket, where there are several. No weight changes.

    Nothing random is used up either: a batch's draws follow from the step, and every step sets torch's seed itself.

    Raises:
        TrainingError: it does not fit into memory.
    """
    sampler, data, size = trainer.sampler, trainer.data.train, trainer.config.train.batch_size
    if len(sampler.buckets) < 2:
        return
    largest = max(map(Bucket._make, sampler.buckets), key=lambda bucket: bucket.pixels)
    clips = sampler.members[sampler.buckets.index(largest)]
    items = collate([data[int(clips[row % len(clips)])] for row in range(size)])
    optimizers = list(trainer.optimizers.values())
    weights = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    try:
        # before its first step an optimiser does not hold the two averages of each weight that AdamW has
        begun = any(optimizer.state for optimizer in optimizers)
        room = [] if begun else [torch.empty_like(p) for p in weights for _ in range(2)]
        batch, captions = trainer.batch(0, 0, size * trainer.world, items)
        for player in trainer.optimizers:
            trainer.accelerator.backward(trainer.loss(player, batch, captions))
            for optimizer in optimizers:
                optimizer.zero_grad()
        del room
    except RuntimeError as error:  # torch.OutOfMemoryError is one; on a CPU and on MPS there is no class of its own
        if not any(words in str(error).lower() for words in ("out of memory", "allocate memory")):
            raise
        raise TrainingError(
            f"The largest bucket, {largest.in_words()}, does not fit into the memory of {trainer.accelerator.device} "
            f"with --batch_size {size}. Make the batch smaller (and --gradient_accumulation_steps larger), use "
            "--gradient_checkpointing, or give smaller --buckets."
        ) from None
    logger.info("the largest bucket, %s, fits into memory: %d clips were tried", largest.in_words(), size)
