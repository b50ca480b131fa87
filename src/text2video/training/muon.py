"""Muon: momentum whose update of each hidden matrix is made orthogonal (Jordan et al. 2024).

Adam scales every weight alone; Muon scales every direction of a matrix alike, so that rare directions move as far as
common ones. A convolution is the matrix from its inputs, taps included, to its outputs. Everything that is no hidden
matrix is left to AdamW.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

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
                self._muon(parameters, group)
            elif parameters:
                self._adamw(parameters, group)

    def _muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        matrices: list[Tensor] = []
        for p in parameters:
            momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
            gradient: Any = p.grad
            momentum.mul_(group["momentum"]).add_(gradient)
            # Nesterov's; singular values are those of the whole matrix, wherever its shares are
            whole = assembled(torch.add(gradient, momentum, alpha=group["momentum"]))
            matrices.append(whole.flatten(1).bfloat16())
        for p, matrix in zip(parameters, orthogonal(matrices), strict=True):
            rows, columns = matrix.shape
            if group["weight_decay"]:
                p.mul_(1 - group["lr"] * group["weight_decay"])
            update = dealt(matrix.reshape(p.shape), p)
            p.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                zeros = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                self.state[p] = {"step": torch.zeros(()), **zeros}
        states = [self.state[p] for p in parameters]
        first, second = group["betas"]
        on_cpu = all(p.device.type == "cpu" for p in parameters)
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            *([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")),
            max_exp_avg_sqs=[],
            state_steps=[state["step"] for state in states],
            foreach=not on_cpu,
            fused=on_cpu,  # all weights in one call
            amsgrad=False,
            beta1=first,
            beta2=second,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Matrices `[R, C]` with their singular values all brought near 1 (0.7 to 1.2), by a Newton-Schulz iteration.

    Each of its steps multiplies a matrix by a polynomial of its Gram matrix. So the steps are taken on Gram matrices,
    where matrices as tall as each other go together however wide they are, and then their product is applied. In
    bfloat16 a Gram matrix loses its small eigenvalues, so it is made anew after two steps of five.
    """
    same: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        same[tuple(matrix.shape)].append(index)
    wide: dict[tuple[int, ...], Tensor] = {}  # matrices of a shape as `[N, R, C]` with R <= C
    by_height: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for shape, indices in same.items():
        together = torch.stack([matrices[i] for i in indices])
        wide[shape] = together.mT.contiguous() if shape[0] > shape[1] else together
        by_height[min(shape)].append(shape)
    for shapes in by_height.values():
        for steps, first in ((2, True), (3, False)):
            grams = torch.cat([wide[shape] @ wide[shape].mT for shape in shapes])
            factors = _newton_schulz(grams, steps, first).split([len(wide[shape]) for shape in shapes])
            for shape, factor in zip(shapes, factors, strict=True):
                wide[shape] = factor @ wide[shape]
    results = list(matrices)
    for shape, indices in same.items():
        together = wide[shape].mT if shape[0] > shape[1] else wide[shape]
        for index, result in zip(indices, together, strict=True):
            results[index] = result
    return results


def _newton_schulz(gram: Tensor, steps: int, to_unit: bool) -> Tensor:
    """What the steps multiply matrices by that have these Gram matrices: `[N, R, R]`, by the reference's coefficients.

    `to_unit`: the matrices are divided by their Frobenius norms before.
    """
    norm = (gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + 1e-14).sqrt() if to_unit else 1.0
    gram = gram / norm**2
    product: Any = 1 / norm
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        factor.diagonal(dim1=1, dim2=2).add_(3.4445)
        product = factor @ product if step else factor * product
        if step < steps - 1:
            gram = factor @ gram @ factor
    return product
