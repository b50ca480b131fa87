"""Optimisers, and the learning rate as a function of the step alone."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..config import OptimConfig
from ..errors import UsageError
from .imports import import_class


def make_optimizer(config: OptimConfig, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only, or a user's own class by its path.

    Raises:
        UsageError: the name is unknown or cannot be imported.
    """
    parameters = list(parameters)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
    if ":" not in config.optimizer:
        raise UsageError(
            f"There is no optimizer {config.optimizer!r}. Choose adamw, or your own class as module:Class."
        )
    return import_class(config.optimizer)(groups, lr=config.learning_rate)


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """The learning rate of step 0, 1, ...: linear warm-up, then cosine annealing (Loshchilov and Hutter 2016)."""
    warmup = min(config.warmup_steps, max(total_steps // 10, 1))  # a short run should not only warm up
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.lr_schedule == "constant":
        return config.learning_rate
    progress = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
    lowest = config.min_lr_ratio
    return config.learning_rate * (lowest + (1 - lowest) * (1 + math.cos(math.pi * progress)) / 2)
