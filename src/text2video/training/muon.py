"""Muon: momentum whose update of each hidden matrix is made orthogonal (Jordan et al. 2024).

Adam scales every weight alone; Muon scales every direction of a matrix alike, so that rare directions move as far as
common ones. A convolution is the matrix from its
inputs, taps included, to its outputs. Everything that is no hidden matrix is left to AdamW.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from .sharding import assembled, dealt


class Muon(torch.optim.Optimizer):
    """Muon for groups with `hidden=True`, AdamW (Loshchilov and Hutter 2017) for the others.

    Args:
        groups: parameter groups with `params`, `lr`, `hidden` and `weight_decay`.
        momentum: of hidden matrices.
        betas, eps: of AdamW.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ):
        super().__init__(groups, {"momentum": momentum, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update from the gradients."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["hidden"]:
                changes = self._hidden_updates(parameters, group["momentum"])
            else:
                changes = [_adam_update(p, self.state[p], group) for p in parameters]
            for parameter, change in zip(parameters, changes, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-group["lr"])

    def _hidden_updates(self, parameters: list[Tensor], decay: float) -> list[Tensor]:
        # Matrices of one shape are made orthogonal together: on a CPU many small products take longer than few.
        same: dict[tuple[int, ...], list[int]] = defaultdict(list)
        matrices: list[Tensor] = []
        for index, parameter in enumerate(parameters):
            momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
            gradient: Any = parameter.grad
            momentum.mul_(decay).add_(gradient)
            # Nesterov's; singular values are those of the whole matrix, wherever its shares are
            matrices.append(assembled(torch.add(gradient, momentum, alpha=decay)).flatten(1))
            same[tuple(matrices[-1].shape)].append(index)
        updates = list(matrices)
        for (rows, columns), indices in same.items():
            together = orthogonal(torch.stack([matrices[i] for i in indices])) * max(1.0, rows / columns) ** 0.5
            for index, update in zip(indices, together, strict=True):
                updates[index] = dealt(update.view(parameters[index].shape), parameters[index])
        return updates


def _adam_update(parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    if not state:
        state |= {"step": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
    first, second = group["betas"]
    gradient: Any = parameter.grad
    state["step"] += 1
    state["mean"].lerp_(gradient, 1 - first)
    state["square"].lerp_(gradient.square(), 1 - second)
    deviation = (state["square"] / (1 - second ** state["step"])).sqrt_().add_(group["eps"])
    return state["mean"] / (1 - first ** state["step"]) / deviation


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices `[N, R, C]` with their singular values all brought near 1 (0.7 to 1.2), by a Newton-Schulz iteration.

    In bfloat16, as the result need not be exact; the quintic's coefficients are those of the reference.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.mT if tall else x).to(matrices.dtype)
