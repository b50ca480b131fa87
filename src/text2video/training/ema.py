"""The exponential moving average of weights, kept beside them and put in their place while they are looked at."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class EMA:
    """Averages of what trains.

    The decay warms up as (1 + step) / (10 + step), so that early weights are forgotten (as in TensorFlow's
    `ExponentialMovingAverage`). With a decay of 0 there is no average, and the weights stand for it.

    Args:
        parameters: name -> weights that train.
        decay: of the old average in each step.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float):
        self.parameters, self.decay = dict(parameters), decay
        self.averages = {name: p.detach().clone() for name, p in parameters.items()} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Draw the averages towards the weights after step 0, 1, ..."""
        if self.averages:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.averages.values()), list(self.parameters.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the averages are the weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, average in self.averages.items():
            weights = self.parameters[name]
            weights.data, self.averages[name] = average, weights.data
