"""The cheapest setting that fits: options that save memory are added, the least costly first, until the run fits.

Then each of them is left out again where the run fits without it. The video is made smaller only when all else is not
enough, as that changes what is learned.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from ..config import RunConfig
from ..training.recompute import can_recompute
from .facts import Facts, facts_of
from .plan import Plan, lower_type, plan


@dataclass(frozen=True)
class Saving:
    """Options that save memory.

    Args:
        flags: of `train`.
        words: what they do, and what they cost.
    """

    flags: tuple[str, ...]
    words: str


@dataclass(frozen=True)
class Proposal:
    """A setting that fits, or the smallest that was found.

    Args:
        savings: what is changed; none where the run fits as it is.
        config, plan: of the changed run.
        fits: whether it does.
        before: the plan of the run as it was.
    """

    savings: tuple[Saving, ...]
    config: RunConfig
    plan: Plan
    fits: bool
    before: Plan

    @property
    def flags(self) -> list[str]:
        """What to add to the command line."""
        return [flag for saving in self.savings for flag in saving.flags]

    @property
    def words(self) -> str:
        """What the changes do."""
        return "; ".join(saving.words for saving in self.savings)


def propose(
    config: RunConfig, limit: float, on_gpu: bool, clips: int | None = None, on_try: Callable[[], None] = lambda: None
) -> Proposal:
    """The cheapest setting of a run that needs at most `limit` bytes.

    Args:
        on_try: called for each setting that is looked at.

    Raises:
        ModelError, UsageError: see `facts_of`.
    """

    def planned(*savings: Saving) -> tuple[RunConfig, Plan]:
        on_try()
        changed = with_savings(config, savings)
        return changed, plan(changed, on_gpu, clips)

    facts, chosen = facts_of(config), ()
    changed, found = config, plan(config, on_gpu, clips, facts)
    before = found
    for saving in savings_of(config, facts, on_gpu):
        if found.needed <= limit:
            break
        chosen = (*chosen, saving)
        changed, found = planned(*chosen)
    if found.needed <= limit:
        for saving in chosen[:-1]:
            fewer = tuple(other for other in chosen if other is not saving)
            lighter = planned(*fewer)
            if lighter[1].needed <= limit:
                chosen, (changed, found) = fewer, lighter
        return Proposal(chosen, changed, found, True, before)
    smallest = chosen
    for saving in smaller_videos(facts, bool(config.data.buckets)):
        smallest = (*chosen, saving)
        changed, found = planned(*smallest)
        if found.needed <= limit:
            break
    return Proposal(smallest, changed, found, found.needed <= limit, before)


def with_savings(config: RunConfig, savings: Sequence[Saving]) -> RunConfig:
    """A configuration with the options of some savings laid over it."""
    flags = [flag for saving in savings for flag in saving.flags]
    return RunConfig.build(config.model_dump(mode="json"), flags) if flags else config


def savings_of(config: RunConfig, facts: Facts, on_gpu: bool) -> Iterator[Saving]:
    """What can be changed without a smaller video, the least costly first."""
    train, data = config.train, config.data
    if lower_type(config, on_gpu) is None:
        yield Saving(("--mixed_precision", "bf16"), "compute in bfloat16: faster, weights stay float32")
    if facts.frozen and not (data.load_tensors or data.augment or data.buckets or data.shapes):
        words = "encode ahead, by `text2video data prepare`: codec and text encoder stay out of memory"
        yield Saving(("--load_tensors", "prepared"), words)
    if config.preview.sample_steps:
        yield Saving(("--sample_steps", "0"), "no videos are sampled while it trains")
    if train.batch_size > 1:
        micro = str(train.batch_size * train.gradient_accumulation_steps)
        flags = ("--batch_size", "1", "--gradient_accumulation_steps", micro)
        yield Saving(flags, "one clip at a time, the same number in a step")
    if not train.gradient_checkpointing and any(map(can_recompute, facts.learning.values())):
        yield Saving(("--gradient_checkpointing",), "compute activations twice: about a third more time")
    if on_gpu and config.optim.optimizer == "adamw" and any(map(find_spec, ("bitsandbytes", "torchao"))):
        yield Saving(("--optimizer", "adamw8bit"), "optimiser states in 8 bits")
    if config.optim.ema_decay:
        yield Saving(("--ema_decay", "0"), "no average of the weights: the last weights are the model")
    if train.init_from and not config.lora:
        yield Saving(("--lora", "--learning_rate", "1e-4"), "train an adapter in place of all weights")
    if config.lora and not (config.memory.layerwise_casting or config.memory.quantize):
        yield Saving(("--layerwise_casting",), "frozen weights as fp8, cast while a layer computes")


def smaller_videos(facts: Facts, bucketed: bool) -> Iterator[Saving]:
    """Smaller and shorter videos that the model can take, the largest first."""
    rules, (frames, height, width) = facts.rules, facts.video
    for space, time in ((0.75, 1), (0.625, 1), (0.5, 1), (0.5, 0.5), (0.375, 0.5), (0.25, 0.5), (0.25, 0.25)):
        shape = rules.frames.below(frames * time), rules.height.below(height * space), rules.width.below(width * space)
        if not all(shape):
            continue
        names = [f"{part} {size}" for part, size in zip(("--num_frames", "--height", "--width"), shape, strict=True)]
        flags = ("--buckets", "x".join(map(str, shape))) if bucketed else tuple(" ".join(names).split())
        yield Saving(flags, f"LAST RESORT, smaller videos: {shape[0]} frames of {shape[2]}x{shape[1]} pixels")
