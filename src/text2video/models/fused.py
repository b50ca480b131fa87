"""The elementwise work of a transformer block in few passes over memory.

Between the products of a block stand norms, scales, shifts and rotations. Written plainly they go over all tokens
dozens of times in a training step. torch.compile fuses the plain forms, so that those are what it is given.

Shape suffixes as in `attention`; `R` rows, `L` tokens of a row, `G` groups of tokens, in order, each as long as
`lengths` says, or all of one length.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6


def modulated(x: Tensor, shift: Tensor, scale: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
    """Layer norm of `[R, L, C]`, then a scale and a shift for each group of tokens, `[G, C]`."""
    count = x[..., 0].numel()
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and len(scale) * 64 <= count:
        # Scale and shift as the norm's own weight and bias: its kernel goes over the tokens once, also backwards.
        groups = x.flatten(0, 1).split(lengths or count // len(scale))
        each = zip(groups, (1 + scale).unbind(), shift.unbind(), strict=True)
        parts = [_norm(part, weight, bias) for part, weight, bias in each]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(x.shape)
    scale, shift = (_each(values, lengths).to(x.dtype) for values in (scale, shift))
    return torch.addcmul(shift, _norm(x.reshape(len(scale), -1, x.shape[-1])), 1 + scale).view(x.shape)


def _norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, EPS)


def gated(x: Tensor, gate: Tensor, change: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
    """`x` `[R, L, C]`, and a change that each group of tokens takes as far as its gate `[G, C]` says."""
    gate = _each(gate, lengths).to(x.dtype)
    x_groups, groups = (tokens.reshape(len(gate), -1, x.shape[-1]) for tokens in (x, change))
    return torch.addcmul(x_groups, gate, groups).view(x.shape)


def _each(values: Tensor, lengths: Sequence[int] | None) -> Tensor:
    """Values of groups `[G, C]` as those of smaller ones, all of one length, `[g, 1, C]`."""
    if lengths is not None:
        length = math.gcd(*lengths)
        numbers = torch.tensor([number for number, own in enumerate(lengths) for _ in range(own // length)])
        values = values[numbers.to(values.device, non_blocking=True)]
    return values[:, None]


def normed_rotated(x_RLND: Tensor, weight_D: Tensor, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """RMS norm of each head with a weight, then channels i and i + D/2 turned, as a pair, by their angle.

    Args:
        rotation: cosines and sines, each `[1 or R, L, 1, D/2]`; None: they are not turned.
    """
    weight = weight_D.to(x_RLND.dtype)
    cos, sin = rotation if rotation else (None, None)
    if not torch.compiler.is_compiling():
        return _NormRotate.apply(x_RLND, weight, cos, sin)  # pyright: ignore[reportReturnType]
    power = x_RLND.float().square().mean(-1, keepdim=True)
    normed = (x_RLND * (power + EPS).rsqrt()).to(x_RLND.dtype) * weight
    return normed if cos is None or sin is None else rotated(normed, cos, sin)


def rotated(x_RLND: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Channels i and i + D/2 as a pair, turned by their angle: cosines and sines `[1 or R, L, 1, D/2]`."""
    cos, sin = cos.to(x_RLND.dtype), sin.to(x_RLND.dtype)
    first, second = x_RLND.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class _NormRotate(torch.autograd.Function):
    """`y = Rot(w n)`, `n = x / r`, `r = sqrt(mean(x^2) + eps)`, with its gradients by hand.

    The weight goes into the tables of the rotation, which are small, and so does the way back:
    with `b = w Rot^-1(dy)` it is `dx = (b - n mean(b n)) / r` and `dw = sum(b n) / w`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        inverse = (length.square() / x.shape[-1] + EPS).rsqrt().to(x.dtype)  # 1 / r, [R, L, N, 1]
        tables = _tables(weight, cos, sin)
        ctx.save_for_backward(x, inverse, weight, *tables)
        if not tables:
            return (x * inverse).mul_(weight)
        like, swapped = tables
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        half = x.shape[-1] // 2
        torch.mul(x, like, out=y)
        y[..., :half].addcmul_(x[..., half:], swapped[..., half:], value=-1)
        y[..., half:].addcmul_(x[..., :half], swapped[..., :half])
        return y.mul_(inverse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):
        (dy,) = gradients
        x, inverse, weight, *tables = ctx.saved_tensors
        if tables:
            like, swapped = tables
            half = x.shape[-1] // 2
            b = dy * like
            b[..., :half].addcmul_(dy[..., half:], swapped[..., :half])
            b[..., half:].addcmul_(dy[..., :half], swapped[..., half:], value=-1)
        else:
            b = dy * weight
        bx = b * x
        along = inverse.pow(3).mul_(bx.sum(-1, keepdim=True)).div_(-x.shape[-1])  # -mean(b n) / r^2
        d_weight = (inverse.reshape(1, -1) @ bx.reshape(-1, x.shape[-1]))[0] / torch.where(weight == 0, 1, weight)
        return b.mul_(inverse).addcmul_(x, along), d_weight, None, None


def _tables(weight: Tensor, cos: Tensor | None, sin: Tensor | None) -> tuple[Tensor, ...]:
    """What a channel keeps of itself, and what it gives to the other of its pair: each `[1 or R, L, 1, D]`."""
    if cos is None or sin is None:
        return ()
    return tuple((torch.cat([part, part], dim=-1) * weight).to(weight.dtype) for part in (cos, sin))
