"""The exponential moving average of weights, kept as modules that are always ready to sample from."""

from collections.abc import Mapping

import torch
from torch import nn


class EMA:
    """Averages what trains into a second set of modules.

    The decay warms up as (1 + step) / (10 + step), so that early weights are forgotten (as in TensorFlow's
    `ExponentialMovingAverage`). A decay of 0 means a plain copy.

    Args:
        averages: component name -> module that holds the average.
        decay: of the old average in each step.
    """

    def __init__(self, averages: Mapping[str, nn.Module], decay: float):
        self.averages, self.decay = averages, decay
        for module in averages.values():
            module.eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, modules: Mapping[str, nn.Module], step: int) -> None:
        """Draw the averages towards `modules` after step 0, 1, ..."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, average in self.averages.items():
            torch._foreach_lerp_(list(average.parameters()), list(modules[name].parameters()), 1 - decay)
            for buffer, current in zip(average.buffers(), modules[name].buffers(), strict=True):
                buffer.copy_(current)
