"""Softmax attention and the layers built on it, shared by every model (Vaswani et al. 2017, arXiv:1706.03762).

Shape suffixes:
    B batch (anything that is attended separately)   L queries   S keys and values
    N heads   D head width   C channels   E width of the text embedding
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import zeroed

Core = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(q `[B, L, N, D]`, k and v `[B, S, N, D]`, mask bool `[B, S]` or None) -> `[B, L, N, D]`: each query sees all keys of
its row that the mask does not hide."""
_Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]


def attention(
    q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor, mask_BS: Tensor | None = None, causal: bool = False
) -> Tensor:
    """`softmax(q k^T / sqrt(D)) v`, `[B, L, N, D]`.

    `mask_BS` is bool, true where a key may be seen. A row that sees no key at all gets zeros, not NaN.
    `causal`, without a mask: query i sees keys 0 to i.
    """
    if mask_BS is not None:
        v_BSND = v_BSND * mask_BS[:, :, None, None].to(v_BSND.dtype)
    core = _fastest(q_BLND, k_BSND, mask_BS is not None or causal)
    return core(q_BLND, k_BSND, v_BSND, mask_BS, causal)


def _fastest(q_BLND: Tensor, k_BSND: Tensor, masked: bool) -> _Kernel:
    # On a CPU the fused kernel is the faster one in float32, twice over 16 frames. In bfloat16 its backward pass is
    # slow, ten times over 16 frames: where the score matrix is small, write it out; where it is larger, piece by piece,
    # up to where keeping it takes too much memory.
    half, keys = q_BLND.dtype == torch.bfloat16, k_BSND.shape[1]
    if q_BLND.device.type != "cpu":
        return _fused
    if half and not masked and 256 < keys <= 2048:
        return _in_pieces
    return _explicit if half and keys <= 512 else _fused


def _explicit(q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor, mask_BS: Tensor | None, causal: bool) -> Tensor:
    heads = q_BLND.shape[2]
    k_BSND = k_BSND * q_BLND.shape[-1] ** -0.5
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q_BLND, k_BSND, v_BSND))  # [B*N, L or S, D]
    # Keys come first: a softmax over few keys runs along the queries in memory, up to three times as fast.
    if causal:
        seen_LS = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device).tril()
        scores = torch.baddbmm(_bias(seen_LS, q.dtype).T, k, q.mT)  # [B*N, S, L]
    elif mask_BS is None:
        scores = k @ q.mT  # [B*N, S, L]
    else:
        bias = _bias(mask_BS, q.dtype).repeat_interleave(heads, 0)[:, :, None]  # [B*N, S, 1]
        scores = torch.baddbmm(bias, k, q.mT)  # [B*N, S, L]
    return (scores.softmax(1).mT @ v).unflatten(0, (-1, heads)).transpose(1, 2)


def _in_pieces(q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *_: Any) -> Tensor:
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q_BLND, k_BSND, v_BSND))  # [B*N, L or S, D]
    pieces: Any = _InPieces.apply(q, k, v)
    return pieces.unflatten(0, (-1, q_BLND.shape[2])).transpose(1, 2)


class _InPieces(torch.autograd.Function):
    """`_explicit` over `[M, L, D]` in pieces of the scores that stay near the processor, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k = k * q.shape[-1] ** -0.5
        out, kept = torch.empty_like(q), []
        for rows, queries in _pieces(q, k):
            p = torch.bmm(k[rows], q[rows, queries].mT).softmax(1)  # [m, S, l]
            out[rows, queries] = torch.bmm(p.mT, v[rows])
            if any(ctx.needs_input_grad):
                kept.append(p)
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):
        (d_out,) = gradients
        q, k, v, *kept = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (rows, queries), p in zip(_pieces(q, k), kept, strict=True):
            d = d_out[rows, queries]
            dv[rows].baddbmm_(p, d)
            ds = torch._softmax_backward_data(torch.bmm(v[rows], d.mT), p, 1, p.dtype)  # [m, S, l]
            dq[rows, queries] = torch.bmm(ds.mT, k[rows])
            dk[rows].baddbmm_(ds, q[rows, queries])
        return dq, dk * q.shape[-1] ** -0.5, dv


def _pieces(q: Tensor, k: Tensor) -> list[tuple[slice, slice]]:
    """Rows and queries of pieces of about two million scores each."""
    queries = min(512, q.shape[1])
    rows = max(1, 2**21 // (queries * k.shape[1]))
    starts = product(range(0, len(q), rows), range(0, q.shape[1], queries))
    return [(slice(row, row + rows), slice(first, first + queries)) for row, first in starts]


def _fused(q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor, mask_BS: Tensor | None, causal: bool) -> Tensor:
    bias_B11S = None if mask_BS is None else _bias(mask_BS, q_BLND.dtype)[:, None, None, :]
    out_BNLD = F.scaled_dot_product_attention(
        q_BLND.transpose(1, 2),
        k_BSND.transpose(1, 2),
        v_BSND.transpose(1, 2),
        attn_mask=bias_B11S,
        is_causal=causal,
    )
    return out_BNLD.transpose(1, 2)


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    # Finite: where every key is hidden, -inf would give NaN.
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min / 2)


class SelfAttention(nn.Module):
    """Self-attention over `[B, L, C]`; the output projection starts at zero, so that a residual around it does too.

    The order of the sequence is told by positions that are added before the projections.
    """

    def __init__(self, channels: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        width = -(-channels // head_dim) * head_dim  # as many heads as cover the channels
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * width, bias=False)
        self.out = zeroed(nn.Linear(width, channels))

    def forward(self, x_BLC: Tensor, positions_LC: Tensor | None = None, causal: bool = False) -> Tensor:
        h_BLC = self.norm(x_BLC)
        if positions_LC is not None:
            h_BLC = h_BLC + positions_LC.to(h_BLC.dtype)
        q, k, v = self.qkv(h_BLC).unflatten(-1, (3, -1, self.head_dim)).unbind(2)  # each [B, L, N, D]
        return self.out(attention(q, k, v, causal=causal).flatten(2))  # [B, L, C]


class CrossAttention(nn.Module):
    """Attention from `[B, L, C]` to a text `[B, S, E]`; the output projection starts at zero."""

    def __init__(self, channels: int, text_channels: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        width = -(-channels // head_dim) * head_dim
        self.norm = nn.LayerNorm(channels)
        self.q = nn.Linear(channels, width, bias=False)
        self.kv = nn.Linear(text_channels, 2 * width, bias=False)
        self.out = zeroed(nn.Linear(width, channels))

    def forward(self, x_BLC: Tensor, text_BSE: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        q_BLND = self.q(self.norm(x_BLC)).unflatten(-1, (-1, self.head_dim))
        k, v = self.kv(text_BSE).unflatten(-1, (2, -1, self.head_dim)).unbind(2)  # each [B, S, N, D]
        return self.out(attention(q_BLND, k, v, mask_BS).flatten(2))  # [B, L, C]


class FeedForward(nn.Module):
    """A gated layer at each place of `[..., C]` (GEGLU: Shazeer 2020, arXiv:2002.05202), at zero in the beginning."""

    def __init__(self, channels: int, multiple: int = 4):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, 2 * multiple * channels)
        self.narrow = zeroed(nn.Linear(multiple * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.widen(self.norm(x)).chunk(2, dim=-1)
        return self.narrow(value * F.gelu(gate))
