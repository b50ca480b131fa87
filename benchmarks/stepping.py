"""Training steps of several models in turn: their speed, and their share of the best matrix product beside them."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Clock = Callable[[], float]
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]  # x_t [B, C, T, H, W], t [B] in 0..1000, text [B, L, D]


@dataclass
class Contender:
    model: nn.Module
    predict: Predict
    lr: float
    optimiser: torch.optim.Optimizer = field(init=False)

    def __post_init__(self):
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=self.lr, fused=True)

    def step(self, x_t: Tensor, t: Tensor, text: Tensor, target: Tensor, precision: torch.dtype) -> float:
        """One training step; its loss."""
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = (self.predict(x_t, t, text).float() - target).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()


def products(contender: Contender, batch: tuple[Tensor, ...]) -> int:
    """Floating-point operations of one forward and backward pass."""

    def forward(q, k, v, *args, **kwargs):  # the shapes [B, N, L, D], [B, N, S, D], [B, N, S, D]
        b, heads, queries, width = q
        return 2 * 2 * b * heads * queries * k[2] * width

    def backward(gradient, q, k, v, *args, **kwargs):
        return 2 * forward(q, k, v)

    kernels = torch.ops.aten
    by_hand = {
        kernels._scaled_dot_product_flash_attention_for_cpu: forward,
        kernels._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    x_t, t, text, target = batch
    with FlopCounterMode(display=False, custom_mapping=by_hand) as counter:
        (contender.predict(x_t, t, text) - target).square().mean().backward()
    contender.optimiser.zero_grad()
    return counter.get_total_flops()


def matrix_rate(precision: torch.dtype, clock: Clock, size: int = 4096) -> float:
    a, b = torch.randn(2, size, size).to(precision)
    start = clock()
    a @ b
    return 2 * size**3 / (clock() - start)


def measure(
    contenders: dict[str, Contender],
    batch: tuple[Tensor, ...],
    steps: int,
    flops: dict[str, int] | None = None,
    clock: Clock = time.perf_counter,
) -> dict[str, dict]:
    """Steps of all contenders in turn, after one each to warm up; a table, and the same as values.

    Args:
        flops: of a step of each; counted where they are not given, which a compiled model does not allow.
        clock: in seconds. On a machine that others use too, `time.process_time` of one thread counts only this work.
    """
    flops = flops or {name: products(contender, batch) for name, contender in contenders.items()}
    seconds = {(name, precision): [] for name in contenders for precision in PRECISIONS}
    rates = {precision: [] for precision in PRECISIONS}
    for round_ in range(steps + 1):
        for precision, dtype in PRECISIONS.items():
            for name, contender in contenders.items():
                start = clock()
                contender.step(*batch, dtype)
                if round_ > 0:
                    seconds[name, precision].append(clock() - start)
                    repeats = math.ceil(10 / (steps * len(contenders)))
                    rates[precision] += [matrix_rate(dtype, clock) for _ in range(repeats)]
    best = {precision: max(found) for precision, found in rates.items()}
    report = {}
    print(f"{'':32}{'params':>9}{'TFLOP':>8}{'type':>10}{'s/step (range)':>22}{'GFLOP/s':>9}{'of matmul':>11}")
    for name, contender in contenders.items():
        parameters = sum(p.numel() for p in contender.model.parameters())
        report[name] = {"parameters": parameters, "flops": flops[name]}
        for precision in PRECISIONS:
            found = seconds[name, precision]
            median = statistics.median(found)
            share = flops[name] / median / best[precision]
            report[name][precision] = {
                "seconds": {"median": median, "least": min(found), "most": max(found)},
                "rate": flops[name] / median,
                "share_of_matrix_product": share,
            }
            spread = f"{median:.2f} ({min(found):.2f}-{max(found):.2f})"
            print(
                f"{name:32}{parameters / 1e6:8.1f}M{flops[name] / 1e12:8.2f}{precision:>10}{spread:>22}"
                f"{flops[name] / median / 1e9:9.0f}{share:11.0%}"
            )
    for precision, found in rates.items():
        print(f"best of {len(found)} matrix products, {precision}: {best[precision] / 1e9:.0f} GFLOP/s")
    return {"models": report, "matrix_products": best}
