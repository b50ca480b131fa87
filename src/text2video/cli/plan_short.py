"""The first lines of `train`: what the run will take, and what would make it fit where it does not."""

import logging
import os
import shlex
from typing import Any

from ..config import RunConfig
from ..errors import Text2VideoError
from .plan import duration, gb

# Below both of these a run takes less than a gigabyte beside Python itself, and looking closer takes longer than it is
# worth: parameters, and numbers in a batch of what is denoised.
SMALL_MODEL, SMALL_BATCH = 5_000_000, 100_000

logger = logging.getLogger("text2video")


def announce(config: RunConfig) -> None:
    """Log what a run will take, or each of its stages; a warning where it will not fit. Nothing of small ones."""
    if int(os.environ.get("RANK", "0")):
        return
    try:
        for stage in config.in_stages:
            _announce(stage.config, f"{stage.in_words()}; " if config.stages else "")
    except Text2VideoError:  # the run itself will say it, or fetch what is missing
        return
    except Exception as error:  # whatever a model does that tensors without contents cannot follow
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        logger.info("The memory of this run could not be planned, as its model could not be traced (%s).", reason)


def _announce(config: RunConfig, stage: str) -> None:
    from ..planner.cards import this_cpu, this_gpu
    from ..planner.facts import facts_of
    from ..planner.plan import plan
    from ..planner.propose import propose

    facts = facts_of(config)
    numbers = config.train.batch_size * facts.numbers
    if sum(p.numel() for p in facts.trained.values()) < SMALL_MODEL and numbers < SMALL_BATCH:
        return
    gpu = this_gpu() if config.train.device in ("auto", "cuda") else None
    found, free = plan(config, gpu is not None, facts=facts), free_memory(gpu is not None)
    card = gpu or this_cpu()
    kind = "GPU memory" if gpu else "main memory"
    logger.info(
        "%splanned: %s of %s (%s are free), %s a step on %s; disk %s at most",
        stage,
        gb(found.needed),
        kind,
        gb(free),
        duration(found.step_seconds(card)),
        card.name,
        gb(sum(found.disk.values())),
    )
    if found.needed <= free:
        return
    logger.warning("This run will probably not fit: looking for a setting that does.")
    other = propose(config, free, gpu is not None)
    if other.fits:
        logger.warning("With %s it needs %s and fits.", shlex.join(other.flags), gb(other.plan.needed))
    else:
        logger.warning("Nothing that was tried fits. The smallest needs %s: %s", gb(other.plan.needed), other.words)


def free_memory(on_gpu: bool) -> float:
    """Bytes that a run may use: of the GPU, or of main memory with what this process has already."""
    if on_gpu:
        import torch

        return float(torch.cuda.mem_get_info()[0])
    import psutil

    process: Any = psutil.Process()
    return float(psutil.virtual_memory().available + process.memory_info().rss)
