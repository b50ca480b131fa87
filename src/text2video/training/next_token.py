"""What an autoregressive model learns: the token of each place, from those before it and the text."""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor

from ..diffusion.objectives import Batch, Predict


class NextToken:
    """Cross-entropy in nats, a mean over the places of `batch.x_0`, tokens `[B, 1, t, h, w]`."""

    def players(self, trainable: Iterable[Tensor]) -> dict[str, list[Tensor]]:
        """One player: everything that trains."""
        return {"transformer": list(trainable)}

    def plays(self, player: str, step: int) -> bool:
        """Always."""
        return True

    def loss(self, predict: Predict, batch: Batch, player: str = "transformer") -> Tensor:
        """The loss, a scalar. The logits `[B, t, h, w, vocab_size]` are asked for all places at once."""
        logits = predict(batch.x_0, batch.u, batch.condition)
        return F.cross_entropy(logits.flatten(0, -2).float(), batch.x_0.flatten())
