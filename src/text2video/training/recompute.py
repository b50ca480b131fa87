"""Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174): activations are computed again in place of being kept.

Most models bring it along. Of those that do not, such as ModelScope's U-Net, the layers that keep the most are wrapped.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint

# Classes of diffusers' layers whose inputs are small beside what they keep.
LAYERS = ("ResnetBlock2D", "Transformer2DModel", "TransformerTemporalModel", "TemporalConvLayer")

Again = Callable[..., Any]
"""(function, its inputs) -> its result, computed again when gradients are."""
USUAL: Again = partial(checkpoint, use_reentrant=False)


def can_recompute(module: nn.Module) -> bool:
    """Whether a module has gradient checkpointing, or layers that can be wrapped."""
    return getattr(module, "_supports_gradient_checkpointing", False) or bool(_layers(module))


def recompute(module: nn.Module, again: Again = USUAL) -> None:
    """Turn gradient checkpointing on, where the module can."""
    if getattr(module, "_supports_gradient_checkpointing", False):
        subject: Any = module
        subject.enable_gradient_checkpointing(again)
        return
    for layer in _layers(module):
        if "forward" not in vars(layer):  # wrapped already
            layer.forward = partial(_forward, layer.forward, again)


def _layers(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if type(layer).__name__ in LAYERS]


def _forward(forward: Callable[..., Any], again: Again, *inputs: Any, **named: Any) -> Any:
    return again(forward, *inputs, **named) if is_grad_enabled() else forward(*inputs, **named)
