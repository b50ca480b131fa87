"""Muon: momentum whose update of each hidden matrix is made orthogonal (Jordan et al. 2024).

Adam scales every weight alone; Muon scales every direction of a matrix alike, so that rare directions (the small part
of the loss that tells a circle from a square) learn as fast as common ones. A convolution is the matrix from its
inputs, taps included, to its outputs. Everything that is no hidden matrix is left to AdamW.
"""

from typing import Any

import torch
from torch import Tensor


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
    def step(self, closure: Any = None) -> None:
        """One update from the gradients."""
        for group in self.param_groups:
            update = _hidden_update if group["hidden"] else _adam_update
            for parameter in group["params"]:
                if parameter.grad is not None:
                    change = update(parameter, self.state[parameter], group)
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-group["lr"])


def _hidden_update(parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    momentum = state.setdefault("momentum", torch.zeros_like(parameter))
    momentum.mul_(group["momentum"]).add_(parameter.grad)
    matrix = parameter.grad.add(momentum, alpha=group["momentum"]).flatten(1)  # Nesterov
    rows, columns = matrix.shape
    return orthogonal(matrix).view_as(parameter) * max(1.0, rows / columns) ** 0.5


def _adam_update(parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    if not state:
        state |= {"step": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
    first, second = group["betas"]
    state["step"] += 1
    state["mean"].lerp_(parameter.grad, 1 - first)
    state["square"].lerp_(parameter.grad.square(), 1 - second)
    deviation = (state["square"] / (1 - second ** state["step"])).sqrt_().add_(group["eps"])
    return state["mean"] / (1 - first ** state["step"]) / deviation


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The matrix with its singular values all brought near 1 (0.7 to 1.2), by a quintic Newton-Schulz iteration.

    In bfloat16, as the result need not be exact; the coefficients are those of the reference.
    """
    x = matrix.bfloat16()
    wide = x.T if x.shape[0] > x.shape[1] else x
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return (wide.T if x.shape[0] > x.shape[1] else wide).to(matrix.dtype)
