"""Self-attention over space and time by name: who sees whom in a video.

    none         nobody
    space        each place sees its frame: for models of single frames
    time         each place sees itself in all frames
    factorised   each place sees its frame, then itself in all frames
    full         each place sees every place of every frame
    causal       each place sees its frame, then itself in this frame and those before

A model that is `causal` at one level has to look at no later frame anywhere else either.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError
from .attention import SelfAttention
from .layers import sinusoid

# Name -> the axes along which attention goes in turn.
ATTENTION = {
    "none": (),
    "space": ("space",),
    "time": ("time",),
    "factorised": ("space", "time"),
    "full": ("full",),
    "causal": ("space", "time"),
}


class SpacetimeAttention(nn.ModuleDict):
    """Residual self-attention over `[B, T, H, W, C]` along the axes that a name means.

    Args:
        kind: one of `ATTENTION`.
        places: whether attention in a frame is told where things are; image models leave that to convolutions.
    """

    def __init__(self, kind: str, channels: int, head_dim: int, places: bool = True):
        super().__init__({axes: SelfAttention(channels, head_dim) for axes in ATTENTION[kind]})
        self.causal = kind == "causal"
        self.places = places

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, H, W, C]` -> the same shape."""
        for axes, layer in self.items():
            x = x + self._attend(layer, x, axes)
        return x

    def _attend(self, layer: nn.Module, x: Tensor, axes: str) -> Tensor:
        b, t, h, w, c = x.shape
        if axes == "time":
            sequences = x.permute(0, 2, 3, 1, 4).reshape(b * h * w, t, c)
            seen = layer(sequences, _positions((t,), c, x), self.causal)
            return seen.view(b, h, w, t, c).permute(0, 3, 1, 2, 4)
        if axes == "space":
            where = _positions((h, w), c, x) if self.places else None
            return layer(x.reshape(b * t, h * w, c), where).view(x.shape)
        return layer(x.reshape(b, t * h * w, c), _positions((t, h, w), c, x)).view(x.shape)


def check_attention(levels: Sequence[str]) -> bool:
    """Whether a model with these kinds of attention at its levels is causal.

    Raises:
        ModelError: one is not known, or looks at later frames beside one that is causal.
    """
    if unknown := [kind for kind in levels if kind not in ATTENTION]:
        raise ModelError(f"attention has {unknown[0]!r}; each level can have one of {', '.join(ATTENTION)}.")
    causal = "causal" in levels
    if causal and (ahead := [kind for kind in levels if kind not in ("causal", "space", "none")]):
        raise ModelError(
            f"attention is causal at one level and {ahead[0]!r} at another, which looks at later frames. "
            "In a causal model each level is causal, space or none."
        )
    return causal


def _positions(sizes: tuple[int, ...], channels: int, like: Tensor) -> Tensor:
    """Sinusoids of the places of a grid, an equal share of the channels for each axis: `[places, channels]`."""
    share = channels // len(sizes)
    axes = [sinusoid(torch.arange(size, device=like.device), share) for size in sizes]
    shape = (*sizes, share)
    grid = [
        axis.view(*(size if i == j else 1 for j, size in enumerate(sizes)), share).expand(shape)
        for i, (axis, size) in enumerate(zip(axes, sizes, strict=True))
    ]
    return F.pad(torch.cat(grid, dim=-1), (0, channels - share * len(sizes))).flatten(0, -2)
