"""The memory, disk and time that a run will take, before it starts.

Memory is followed through the phases of a run: the training step, the optimiser's step, the encoding of clips, the
sampling of previews and their decoding. Weights, optimiser states and averages are there in all of them; the plan's
peak is that of the phase that needs the most.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from ..config import RunConfig
from ..models.codecs import geometry_of, latent_bytes
from ..models.transformer import VideoTransformer
from ..training.optim import make_optimizer
from ..training.precision import choose_precision
from ..training.recompute import can_recompute, recompute
from .cards import GB, Card
from .facts import Facts, facts_of, size_of, traceable
from .tracing import Traced, Work, trace

# What a process holds on a GPU before the first tensor: CUDA's context, its kernels and cuBLAS's workspace. Assumed.
CONTEXT = 0.6 * GB
# Python, torch, diffusers and transformers once they are imported, and one of the loader's processes. Assumed.
PROCESS, WORKER = 0.7 * GB, 0.3 * GB
# What the C library keeps between the blocks in use, as a share of them. Measured by benchmarks/planner.py --default.
KEPT = 0.15


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Args:
        on_gpu: whether it has a device with memory of its own; else all is in main memory.
        memory: part -> bytes on the device, in the phase that needs the most.
        phases: phase -> bytes on the device.
        ram: bytes of main memory.
        disk: part -> bytes on the disk at the end of the run.
        step: what a step computes.
        work: part of the run -> what it computes; empty where the run's length is not known.
        steps: of the run; None: not known.
        notes: what else is to be known, in words.
    """

    on_gpu: bool
    memory: dict[str, float]
    phases: dict[str, float]
    ram: float
    disk: dict[str, float]
    step: Work
    work: dict[str, Work]
    steps: int | None
    notes: tuple[str, ...] = ()

    @property
    def peak(self) -> float:
        """Bytes that the device needs."""
        return sum(self.memory.values())

    @property
    def worst(self) -> str:
        """The phase that needs the most."""
        return max(self.phases, key=lambda phase: self.phases[phase])

    @property
    def needed(self) -> float:
        """Bytes that decide whether the run fits: of the device, or of main memory where that is the device."""
        return self.peak if self.on_gpu else self.ram

    def step_seconds(self, card: Card) -> float:
        """How long a step takes on a card."""
        return self.step.seconds(card.rate, card.reached_bandwidth)

    def seconds(self, card: Card) -> dict[str, float]:
        """Part of the run -> how long it takes on a card."""
        return {part: work.seconds(card.rate, card.reached_bandwidth) for part, work in self.work.items()}


def plan(config: RunConfig, on_gpu: bool, clips: int | None = None, facts: Facts | None = None) -> Plan:
    """What a run will take, on a GPU or on a CPU.

    Args:
        clips: of the data set; None: not known.
        facts: where they are known already.

    Raises:
        ModelError, UsageError: see `facts_of`.
    """
    with traceable():
        return _plan(config, on_gpu, clips, facts or facts_of(config))


def _plan(config: RunConfig, on_gpu: bool, clips: int | None, facts: Facts) -> Plan:
    train, prepared = config.train, config.data.load_tensors is not None
    dtype = lower_type(config, on_gpu)
    if train.gradient_checkpointing:
        checkpoint(facts.learning)
    at_once = micro_batch(config, facts)
    step = trace_step(facts, at_once, on_gpu, dtype)
    states, workspace, update = trace_optimizer(config, facts)
    videos = 2 if config.preview.sample_steps else 0  # with the caption and without
    looked_at = max(videos, train.batch_size if config.data.val_fraction else 0, 1)
    forward = trace_forward(facts, looked_at, on_gpu)
    encoding = _codec(facts, None if prepared else facts.encode, on_gpu)
    decoding = _codec(facts, facts.decode if videos else None, on_gpu)

    trained, frozen = size_of(facts.trained.values()), size_of(facts.frozen.values())
    embedders = size_of([facts.frozen[name] for name in facts.embedded])
    there = {
        "weights": size_of(facts.learning.values()) - fewer_bits(config, facts),
        "frozen parts": 0 if prepared else frozen - embedders,
        "optimiser": states,
        "averaged weights": trained if config.optim.ema_decay else 0,
    }
    gradients = step.gradients
    several = train.gradient_accumulation_steps > 1
    activations = step.besides if several else step.peak - gradients
    phases = {
        "training step": {"gradients": gradients, "activations": activations},
        "optimiser step": {"gradients": gradients, "workspace of the optimiser": workspace},
    }
    if encoding.peak:
        phases["encoding of clips"] = {"activations of the codec": encoding.peak}
    back = {"frozen parts, for previews": frozen if prepared else embedders} if videos else {}
    if videos or config.data.val_fraction:
        phases["validation and previews"] = back | {"activations of sampling": forward.peak}
    if decoding.peak:
        phases["decoding of previews"] = back | {"activations of the codec": decoding.peak}
    notes = []
    if train.gradient_checkpointing and not any(map(can_recompute, facts.learning.values())):
        notes.append("This model has no gradient checkpointing: the option saves nothing.")
    if train.sharding != "none":
        notes.append(
            "Sharding is not planned for: with N processes each holds an Nth of weights, gradients, averages and "
            "optimiser, besides the whole averaged model while it validates or makes previews."
        )
    if config.memory.block_offload:
        notes.append("Block offloading is not planned for: the GPU needs less than this, and main memory more.")
    own: dict[str, float] = {"CUDA itself (assumed)": CONTEXT} if on_gpu else {}
    sums = {phase: sum((own | there | parts).values()) for phase, parts in phases.items()}
    worst = max(sums, key=lambda phase: sums[phase])
    memory = {name: size for name, size in (own | there | phases[worst]).items() if size}
    workers = WORKER * config.data.num_workers
    held = there["weights"] + there["frozen parts"] if on_gpu else (1 + KEPT) * sums[worst]
    steps = steps_of(config, clips, at_once)

    micro = train.gradient_accumulation_steps
    whole = step.work * micro + encoding.work * (micro * at_once) + update
    parts: dict[str, Work] = {}
    if steps:
        parts["training"] = whole * steps
        if config.data.val_fraction:
            parts["validation"] = forward.work * (-(-steps // train.eval_steps) * train.val_samples / looked_at)
        if videos:
            count = -(-steps // config.preview.sample_steps) * (
                len(config.preview.sample_prompts) or config.preview.num_samples
            )
            rounds = min(config.preview.num_inference_steps or 50, config.preview.max_preview_steps)
            parts["previews"] = forward.work * (count * rounds * 2 / looked_at) + decoding.work * count
    disk = disk_of(config, facts, states, clips, steps)
    return Plan(on_gpu, memory, sums, PROCESS + workers + held, disk, whole, parts, steps, tuple(notes))


def micro_batch(config: RunConfig, facts: Facts) -> int:
    """Clips that a micro-step holds; of packed ones, as many of the largest size as fill a pack."""
    strides = next((part.strides for part in facts.learning.values() if isinstance(part, VideoTransformer)), None)
    if config.data.pack is None or strides is None:
        return config.train.batch_size
    tokens = math.prod(size // step for size, step in zip(facts.latents[1:], strides, strict=True))
    return max(1, round(config.data.pack / tokens))


def fewer_bits(config: RunConfig, facts: Facts) -> int:
    """Bytes that frozen linear layers need less where they are held in fewer bits."""
    memory = config.memory
    if not (memory.quantize or memory.layerwise_casting):
        return 0
    kept = 0.52 if memory.quantize == "nf4" else 1  # bytes a number; nf4 with its scales
    layers = [layer for part in facts.learning.values() for layer in part.modules() if isinstance(layer, nn.Linear)]
    weights = [layer.weight for layer in layers if not layer.weight.requires_grad]
    return round(sum(weight.numel() * (weight.element_size() - kept) for weight in weights))


def lower_type(config: RunConfig, on_gpu: bool) -> torch.dtype | None:
    """The type that mixed precision computes in on that device; None: there is none."""
    name = config.train.mixed_precision
    if name == "auto":
        name = "bf16" if on_gpu else choose_precision(name, "cpu")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)


def checkpoint(modules: Mapping[str, nn.Module]) -> None:
    """Turn gradient checkpointing on."""
    # what is computed again is not compared: tensors on meta say now and then that they are elsewhere
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "determinism_check": "none"}
    for module in modules.values():
        recompute(module, partial(torch.utils.checkpoint.checkpoint, **settings))


def trace_step(facts: Facts, size: int, on_gpu: bool, dtype: torch.dtype | None) -> Traced:
    """Loss and gradients of one micro-batch of `size` clips."""

    def loss() -> Tensor:
        x_0, x_t, t = _batch(facts, size)
        return (facts.predict(x_t, t).float() - x_0).square().mean()

    for module in facts.learning.values():
        module.train()
        for parameter in module.parameters():
            parameter.grad = None
    return trace(loss, facts.tensors, on_gpu=on_gpu, autocast=dtype, backward=True)


def trace_optimizer(config: RunConfig, facts: Facts) -> tuple[int, int, Work]:
    """Bytes of the optimiser's states, bytes that a step of it needs besides, and the work of a step."""
    names = {parameter: name for name, parameter in facts.trained.items()}
    gradients = [torch.empty_like(p) for p in names]
    work = Work()
    touched = size_of([*names, *gradients])
    if "8bit" in config.optim.optimizer:  # its kernels have no meta version: two bytes a weight, a scale a block
        states, workspace = round(sum(p.numel() for p in names) * (2 + 8 / 256)), 0
    else:
        held: list[Any] = []

        def first() -> None:
            held.append(make_optimizer(config.optim, names, names))
            held[0].step()

        for parameter, gradient in zip(names, gradients, strict=True):
            parameter.grad = gradient
        # the states are made in the first step, and what a step needs besides is seen in the second
        states = trace(first, [*names, *gradients], on_gpu=False).left
        kept = [value for state in held[0].state.values() for value in state.values() if isinstance(value, Tensor)]
        after = trace(lambda: held[0].step(), [*names, *gradients, *kept], on_gpu=False)
        workspace, work = after.peak, after.work
        for parameter in names:
            parameter.grad = None
    work.operations[0, 2 * (touched + states), 4] += 1  # fused kernels, and the averaging of weights
    return states, workspace, work


def trace_forward(facts: Facts, size: int, on_gpu: bool) -> Traced:
    """The prediction for some videos without gradients, in the weights' own type."""

    def predict() -> Tensor:
        _, x_t, t = _batch(facts, size, next(next(iter(facts.learning.values())).parameters()).dtype)
        return facts.predict(x_t, t)

    for module in facts.learning.values():
        module.eval()
    return trace(predict, facts.tensors, on_gpu=on_gpu)


def _batch(facts: Facts, size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """x_0 and x_t `[B, C, t, h, w]` and t `[B]`."""
    x_0 = torch.empty(size, *facts.latents, dtype=dtype)
    return x_0, torch.empty_like(x_0), torch.empty(size)


def _codec(facts: Facts, run: Any, on_gpu: bool) -> Traced:
    """What the codec needs for one video."""
    return trace(run, facts.tensors, on_gpu=on_gpu) if run else Traced(0, 0, 0, 0, Work())


def steps_of(config: RunConfig, clips: int | None, at_once: int) -> int | None:
    """Steps of the run, where a micro-step holds so many clips; None where its data is not known."""
    train = config.train
    if clips is None:
        return train.max_steps
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    per_step = at_once * train.gradient_accumulation_steps * processes
    kept = clips - round(clips * config.data.val_fraction)
    steps = -(-train.num_epochs * kept // per_step)
    return min(steps, train.max_steps or steps)


def disk_of(config: RunConfig, facts: Facts, states: int, clips: int | None, steps: int | None) -> dict[str, float]:
    """Part -> bytes on the disk at the end of the run."""
    train = config.train
    learned = size_of(facts.trained.values())
    # of an adapter's run the model is the adapter; what did not learn is linked, not copied
    model = learned
    averaged = learned if config.optim.ema_decay else 0
    saved = (
        train.keep_checkpoints + 1 if steps is None else min(train.keep_checkpoints + 1, -(-steps // train.save_steps))
    )
    disk: dict[str, float] = {
        f"{saved} checkpoint{'s' * (saved > 1)}": saved * (learned + averaged + states + model),
        "final model": model,
    }
    if config.data.load_tensors and clips:
        geometry = geometry_of(facts.codec) if facts.codec is not None else None
        disk["prepared clips"] = clips * latent_bytes(geometry, facts.video, 2)
    return disk
