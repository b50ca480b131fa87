"""Optimisers, and the learning rate as a function of the step alone."""

import math
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..families.imports import import_class
from ..sections import OptimConfig
from .muon import Muon

# Embeddings and what leaves a network are no hidden matrices: Muon's reference leaves them to AdamW.
NOT_HIDDEN = ("embedding", "leave")
# Tables of words start with rows of unit variance, each trained only when its word comes up: beside hidden matrices
# that turn by Muon's rate they need that rate too.
TABLES = ("token_embedding", "position_embedding")


def make_optimizer(
    config: OptimConfig, parameters: Iterable[Tensor], names: Mapping[Any, str] | None = None
) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only, Muon, or a user's own class by its path.

    Each parameter group remembers its highest learning rate as `peak_lr`.

    Args:
        names: parameter -> its name; Muon tells hidden matrices by them.

    Raises:
        UsageError: the name is unknown or cannot be imported.
    """
    parameters = list(parameters)
    matrices = [p for p in parameters if p.ndim >= 2]
    rest = {"params": [p for p in parameters if p.ndim < 2], "lr": config.learning_rate, "weight_decay": 0.0}
    decayed = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    optimizer: torch.optim.Optimizer
    if config.optimizer == "muon":
        hidden = [p for p in matrices if not any(part in (names or {}).get(p, "") for part in NOT_HIDDEN)]
        tables = [p for p in matrices if any(part in (names or {}).get(p, "") for part in TABLES)]
        known = {id(p) for p in (*hidden, *tables)}
        groups: list[dict[str, Any]] = [
            {"params": hidden, "hidden": True, **decayed, "lr": config.muon_learning_rate},
            {"params": tables, "hidden": False, **decayed, "lr": config.muon_learning_rate},
            {"params": [p for p in matrices if id(p) not in known], "hidden": False, **decayed},
            {"hidden": False, **rest},
        ]
        optimizer = Muon(groups, betas=config.betas)
    elif config.optimizer == "adamw":
        groups = [{"params": matrices, **decayed}, rest]
        optimizer = torch.optim.AdamW(groups, betas=config.betas, fused=True)
    elif config.optimizer == "adamw8bit":
        optimizer = _eight_bit([{"params": matrices, **decayed}, rest], config.betas)
    elif ":" in config.optimizer:
        kind: Any = import_class(config.optimizer)
        if torch.optim.Optimizer not in getattr(kind, "__mro__", ()):
            raise UsageError(f"{config.optimizer} is no torch.optim.Optimizer. Name one, or choose adamw or muon.")
        optimizer = kind([{"params": matrices, **decayed}, rest])
    else:
        raise UsageError(
            f"There is no optimizer {config.optimizer!r}. Choose adamw, adamw8bit, muon, or your own as module:Class."
        )
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


def _eight_bit(groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW whose averages take a byte a number (Dettmers et al. 2021, arXiv:2110.02861).

    Raises:
        UsageError: neither library is there.
    """
    groups = [group for group in groups if group["params"]]
    if find_spec("bitsandbytes"):
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]

        return AdamW8bit(groups, betas=betas)
    if find_spec("torchao"):
        from torchao.optim import AdamW8bit  # pyright: ignore[reportMissingImports]

        class Scheduled(AdamW8bit):
            """With learning rates as plain numbers."""

            def step(self, closure: Any = None) -> Any:
                for group in self.param_groups:
                    group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)
                return super().step(closure)

        return Scheduled(groups, betas=betas)
    raise UsageError(
        "--optimizer adamw8bit needs bitsandbytes, which is not installed: pip install bitsandbytes. Without it take "
        "--optimizer adamw: an adapter's averages are small."
    )


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """The share of the highest learning rate at step 0, 1, ...: warm-up, then cosine annealing (SGDR, 2016).

    A warm-up is never longer than a tenth of the run: a short run should not only warm up.
    """
    warmup = min(config.warmup_steps, max(total_steps // 10, 1))
    if step < warmup:
        return (step + 1) / warmup
    if config.lr_schedule == "constant":
        return 1.0
    progress = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
    lowest = config.min_lr_ratio
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * progress)) / 2
