"""What a run would be: its whole configuration, parameter counts, shapes of a batch and steps. Writes nothing."""

import os
from functools import partial
from typing import Any

import torch

from ..config import RunConfig
from ..families.base import Family
from ..sizes import Bucket
from ..training.build import build, conditions_of_run, learning, shape_rules, steps_in_all, tokens_of
from ..training.data import RunData, Sampler, collate, encoded, open_data, sampler_of
from ..training.starting import Base, open_base, settled


def describe(config: RunConfig) -> str:
    """The resolved configuration as YAML, and what follows from it as comments below, for each of its stages.

    Raises:
        UsageError: the model cannot make videos of that shape.
        DataError: there is nothing to train on.
    """
    lines: list[str] = []
    for stage in config.in_stages:
        base = open_base(stage.config)
        config = settled(config, base)
        found = facts(settled(stage.config, base), base)
        lines += ["", stage.in_words(), *found] if config.stages else found
    return config.to_yaml() + "\n" + "\n".join(f"# {line}".rstrip() for line in lines)


def facts(config: RunConfig, base: Base | None) -> list[str]:
    """Lines on a run without stages, or on one of its stages."""
    rules, told = shape_rules(config, base), conditions_of_run(config, base)
    data = open_data(config.data, config.seed, rules, conditions=told)
    family, pipe, _ = build(config, data.captions, data.shape, base, cache=data.cache, device="meta")
    learning(config, family, pipe)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    sampler = sampler_of(config, data.train, partial(tokens_of, family, pipe), world_size=processes)
    return [*data.notes, *parameters(pipe), *shapes(config, data, family, pipe), *steps(config, sampler)]


def parameters(pipe: Any) -> list[str]:
    """A line on the size of each part."""
    lines = []
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            count = sum(p.numel() for p in part.parameters())
            trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
            some = f"{trained / 1e6:.2f}M of them trained" if 0 < trained < count else ""
            lines.append(f"{name}: {count / 1e6:.2f}M parameters, {some or ('trained' if trained else 'frozen')}")
    return lines


@torch.no_grad()
def shapes(config: RunConfig, data: RunData, family: Family, pipe: Any) -> list[str]:
    """Lines on the tensors of a batch of the largest bucket, or of the largest clip in a pack."""
    indices = range(len(data.train))
    largest = max({data.train.shape(index) for index in indices}, key=lambda shape: Bucket(*shape).pixels)
    videos = [index for index in indices if data.train.shape(index) == largest]
    size = 1 if config.data.pack else config.train.batch_size
    batch = collate([data.train[videos[row % len(videos)]] for row in range(size)])
    latents = encoded(family, pipe, batch, torch.device("cpu")).mean
    text = family.encode_text(pipe, family.trainable(pipe), batch["captions"])
    video = [size, 3, *largest]
    lines = [f"video: {video} as batch, channels, frames, height, width"]
    if list(latents.shape) != video:
        lines.append(f"latents: {list(latents.shape)}")
    return lines + [f"{name}: {list(value.shape)}" for name, value in {**text, **batch["conditions"]}.items()]


def steps(config: RunConfig, sampler: Sampler) -> list[str]:
    """Lines on how long the run is."""
    per_step, shares = sampler.batch_size, f"{sampler.parts} micro-steps x {sampler.world_size} processes"
    at_once = "a pack" if config.data.pack else str(config.train.batch_size)
    return [
        f"clips a step: {per_step} ({at_once} x {shares})",
        f"steps an epoch: {sampler.num_clips / per_step:g} ({sampler.num_clips} clips)",
        *sampler.notes(),
        f"steps in all: {steps_in_all(config.train, sampler)}",
    ]
