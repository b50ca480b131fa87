"""The memory, disk and time that a run will take, before it starts.

Memory is followed through the phases of a run: the training step, the optimiser's step, the encoding of clips, the
sampling of previews and their decoding. Weights, optimiser states and averages are there in all of them; the plan's
peak is that of the phase that needs the most.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from ..config import RunConfig
from ..models.codecs import latent_bytes
from ..training.build import choose_precision
from ..training.optim import make_optimizer
from .cards import GB, Card
from .facts import Facts, facts_of
from .tracing import Traced, Work, trace

# What a process holds on a GPU before the first tensor: CUDA's context, its kernels and cuBLAS's workspace. Assumed.
CONTEXT = 0.6 * GB
# Python, torch, diffusers and transformers once they are imported, and one of the loader's processes. Assumed.
PROCESS, WORKER = 0.7 * GB, 0.3 * GB


@dataclass(frozen=True)
class Plan:
    """What a run will take. Bytes, and seconds on the card."""

    card: Card
    memory: dict[str, float]  # part -> bytes on the device in the phase that needs the most
    phases: dict[str, float]  # phase -> bytes on the device
    ram: float  # bytes of main memory; on a CPU that is where the device's parts are
    disk: dict[str, float]  # part -> bytes
    step_seconds: float
    seconds: dict[str, float]  # part of the run -> seconds; empty where its length is not known
    flops: float  # of one step
    clips: int | None
    steps: int | None
    notes: list[str] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        """Whether it is computed on a card of its own memory."""
        return self.card.name != "this CPU"

    @property
    def peak(self) -> float:
        """Bytes that the device needs."""
        return sum(self.memory.values())

    def fits(self, limit: float) -> bool:
        """Whether the device needs no more than that many bytes."""
        return self.peak <= limit


def plan(config: RunConfig, card: Card, clips: int | None = None, facts: Facts | None = None) -> Plan:
    """What a run will take on a card.

    Args:
        clips: to train on; None: not known, and neither is the run's length.
        facts: where they are known already.

    Raises:
        ModelError, UsageError: see `facts_of`.
    """
    facts = facts or facts_of(config)
    on_gpu, train = card.name != "this CPU", config.train
    dtype = lower_type(config, on_gpu)
    checkpoint(facts.learning, train.gradient_checkpointing)
    step = trace_step(facts, train.batch_size, on_gpu, dtype)
    states, workspace, update = trace_optimizer(config, facts)
    sampling = trace_sampling(facts, on_gpu)
    encoding, decoding = (_frozen(facts, run, on_gpu) for run in ("encoding", "decoding"))

    weights = size_of(facts.learning)
    there = {"weights": weights, "frozen parts": size_of(facts.frozen), "optimiser": states, "averaged weights": weights}
    gradients = step.gradients
    several = train.gradient_accumulation_steps > 1
    activations = step.besides if several else step.peak - gradients
    phases = {
        "training step": {"gradients": gradients, "activations": activations},
        "optimiser step": {"gradients": gradients, "workspace of the optimiser": workspace},
        "encoding of clips": {"activations of the codec": encoding.peak if facts.encodes else 0},
    }
    if config.preview.sample_steps:
        left = {} if facts.frozen else {"frozen parts for the preview": size_of({"codec": facts.codec})}
        phases["preview: sampling"] = left | {"activations of sampling": sampling.peak}
        phases["preview: decoding"] = left | {"activations of the codec": decoding.peak}
    own: dict[str, float] = {"CUDA itself (assumed)": CONTEXT} if on_gpu else {}
    sums = {phase: sum((own | there | parts).values()) for phase, parts in phases.items()}
    worst = max(sums, key=lambda phase: sums[phase])
    memory = {name: size for name, size in (own | there | phases[worst]).items() if size}
    workers = WORKER * config.data.num_workers
    held = weights * 2 + size_of(facts.frozen) if on_gpu else sums[worst]
    steps = steps_of(config, clips)

    micro = train.gradient_accumulation_steps
    work = step.work * micro + update
    if facts.encodes:
        work += encoding.work * (micro * train.batch_size)
    one = work.seconds(card.rate, card.reached_bandwidth)
    seconds = {}
    if steps:
        seconds["training"] = steps * one
        forward = sampling.work.seconds(card.rate, card.reached_bandwidth) / 2
        checks = -(-steps // train.eval_steps) if config.data.val_fraction else 0
        seconds["validation"] = checks * train.val_samples * forward
        if config.preview.sample_steps:
            videos = -(-steps // config.preview.sample_steps) * (
                len(config.preview.sample_prompts) or config.preview.num_samples
            )
            rounds = min(config.preview.num_inference_steps or 1000, config.preview.max_preview_steps)
            finish = decoding.work.seconds(card.rate, card.reached_bandwidth)
            seconds["previews"] = videos * (2 * rounds * forward + finish)
    return Plan(
        card,
        memory,
        sums,
        PROCESS + workers + held,
        disk_of(config, facts, states, clips, steps),
        one,
        seconds,
        work.flops,
        clips,
        steps,
    )


def lower_type(config: RunConfig, on_gpu: bool) -> torch.dtype | None:
    """The type that mixed precision computes in on that device; None: there is none."""
    name = config.train.mixed_precision
    if name == "auto":
        name = "bf16" if on_gpu else choose_precision(name, "cpu")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)


def checkpoint(modules: Mapping[str, nn.Module], wanted: bool) -> None:
    """Turn gradient checkpointing on or off where a module can."""
    for module in modules.values():
        if getattr(module, "_supports_gradient_checkpointing", False):
            subject: Any = module
            if wanted:
                subject.enable_gradient_checkpointing(_checkpointed)
            else:
                subject.disable_gradient_checkpointing()


def _checkpointed(module: Any, *inputs: Any) -> Any:
    # as diffusers does, without the comparison of what is computed anew: tensors on meta say that they are elsewhere
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "determinism_check": "none"}
    return torch.utils.checkpoint.checkpoint(module, *inputs, **settings)


def size_of(modules: Mapping[str, nn.Module | None]) -> int:
    """Bytes of the modules' weights and buffers."""
    tensors = [t for module in modules.values() if module for t in (*module.parameters(), *module.buffers())]
    return sum({id(t): t.numel() * t.element_size() for t in tensors}.values())


def tensors_of(facts: Facts) -> list[Tensor]:
    """Weights and buffers of all parts."""
    modules = [*facts.learning.values(), *facts.frozen.values(), *([facts.codec] if facts.codec else [])]
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def trace_step(facts: Facts, size: int, on_gpu: bool, dtype: torch.dtype | None) -> Traced:
    """Loss and gradients of one micro-batch of `size` clips."""

    def loss() -> Tensor:
        x_0, x_t, t = facts.batch(size)
        return (facts.predict(x_t, t).float() - x_0).square().mean()

    for module in facts.learning.values():
        module.train()
        for parameter in module.parameters():
            parameter.grad = None
    return trace(loss, tensors_of(facts), on_gpu=on_gpu, autocast=dtype, backward=True)


def trace_optimizer(config: RunConfig, facts: Facts) -> tuple[int, int, Work]:
    """Bytes of the optimiser's states, bytes that a step of it needs besides, and the work of a step."""
    names = {p: name for part in facts.learning.values() for name, p in part.named_parameters() if p.requires_grad}
    gradients = [torch.empty_like(p) for p in names]
    for parameter, gradient in zip(names, gradients, strict=True):
        parameter.grad = gradient
    held: list[Any] = []

    def first() -> None:
        held.append(make_optimizer(config.optim, names, names))
        held[0].step()

    known = [*names, *gradients]
    # the states are made in the first step, and what a step needs besides is seen in the second
    begun = trace(first, known, on_gpu=False)
    states = [value for state in held[0].state.values() for value in state.values() if isinstance(value, Tensor)]
    after = trace(lambda: held[0].step(), [*known, *states], on_gpu=False)
    touched = sum(t.numel() * t.element_size() for t in (*known, *states))
    work = after.work
    work.operations[0, 2 * touched, 4] += 1  # fused kernels, which are one operation, and the averaging of weights
    for parameter in names:
        parameter.grad = None
    return begun.left, after.peak, work


def trace_sampling(facts: Facts, on_gpu: bool) -> Traced:
    """One step of sampling a video with guidance: the prediction with the caption and without, in float32."""

    def predict() -> Tensor:
        _, x_t, t = facts.batch(2)
        return facts.predict(x_t, t)

    for module in facts.learning.values():
        module.eval()
    return trace(predict, tensors_of(facts), on_gpu=on_gpu)


def _frozen(facts: Facts, name: str, on_gpu: bool) -> Traced:
    """What the codec needs for one video."""
    if facts.codec is None:
        return Traced(0, 0, 0, 0, Work())
    return trace(getattr(facts, name), tensors_of(facts), on_gpu=on_gpu)


def steps_of(config: RunConfig, clips: int | None) -> int | None:
    """Steps of the run; None where its data is not known."""
    train = config.train
    if clips is None:
        return train.max_steps
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    per_step = train.batch_size * train.gradient_accumulation_steps * processes
    kept = clips - round(clips * config.data.val_fraction)
    steps = -(-train.num_epochs * kept // per_step)
    return min(steps, train.max_steps or steps)


def disk_of(
    config: RunConfig, facts: Facts, states: int, clips: int | None, steps: int | None
) -> dict[str, float]:
    """Part -> bytes on the disk at the end of the run."""
    train = config.train
    model = size_of(facts.learning) + size_of(facts.frozen)
    learned = size_of(facts.learning)
    saved = train.keep_checkpoints + 1 if steps is None else min(train.keep_checkpoints + 1, -(-steps // train.save_steps))
    disk: dict[str, float] = {
        f"{saved} checkpoint{'s' * (saved > 1)}": saved * (learned + states + model),
        "final model": model,
    }
    if config.data.load_tensors and clips:
        from ..models.codecs import geometry_of

        geometry = geometry_of(facts.codec) if facts.codec is not None else None
        disk["prepared clips"] = clips * latent_bytes(geometry, facts.video, 2)
    return disk
