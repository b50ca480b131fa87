"""What makes integers of latents, and latents of integers: finite scalars (FSQ), or the vectors of a codebook (VQ).

Latents are `[B, C, t, h, w]`, tokens integers `[B, t, h, w]`. Rounding has no gradient: latents get that of what they
were rounded to, as if they had not been (straight-through: Bengio et al. 2013, arXiv:1308.3432).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import ModelError


class Quantized(NamedTuple):
    """Latents that a decoder sees `[B, C, t, h, w]`, their tokens `[B, t, h, w]`, and what is to be learned besides."""

    latents: Tensor
    tokens: Tensor
    loss: Tensor


class FSQ(nn.Module):
    """Finite scalar quantisation (Mentzer et al. 2023, arXiv:2309.15505): each channel is rounded to a few levels.

    Levels lie evenly between the bounds of tanh, also where their number is even (as in Parker et al. 2024,
    arXiv:2411.19842). So a latent of mean 0 and variance 1 uses them about alike.

    Args:
        levels: of each channel; their product is the number of codes.
    """

    def __init__(self, levels: Sequence[int]):
        super().__init__()
        if not levels or min(levels) < 2:
            raise ModelError(f"levels are {list(levels)}. Give each channel at least 2, such as [8, 5, 5, 5].")
        self.levels = tuple(levels)
        self.number = math.prod(levels)  # of codes

    def forward(self, latents: Tensor) -> Quantized:
        """Latents rounded. There is nothing to learn besides."""
        top = self._top(latents)
        bounded = (latents.float().movedim(1, -1).tanh() + 1) / 2 * top  # [B, t, h, w, C], from 0 to top
        digits = bounded.round()
        places = torch.tensor([math.prod(self.levels[:i]) for i in range(len(self.levels))], device=latents.device)
        codes = self._codes(bounded + (digits - bounded).detach(), top).to(latents.dtype)
        return Quantized(codes, (digits.long() * places).sum(-1), latents.new_zeros(()))

    def latents_of(self, tokens: Tensor) -> Tensor:
        """`[B, t, h, w]` -> `[B, C, t, h, w]`, as `forward` gave them."""
        digits, rest = [], tokens
        for count in self.levels:
            digits.append(rest % count)
            rest = rest // count
        return self._codes(torch.stack(digits, dim=-1).float(), self._top(tokens))

    def start(self, latents: Tensor) -> None:
        """It has nothing to be fitted."""

    def _top(self, like: Tensor) -> Tensor:
        """The highest digit of each channel."""
        return torch.tensor(self.levels, dtype=torch.float32, device=like.device) - 1

    @staticmethod
    def _codes(digits: Tensor, top: Tensor) -> Tensor:
        """Digits `[B, t, h, w, C]` as latents `[B, C, t, h, w]`, of variance 1 where all are as frequent."""
        return ((2 * digits / top - 1) * (3 * top / (top + 2)).sqrt()).movedim(-1, 1)


class VQ(nn.Module):
    """Vector quantisation (van den Oord et al. 2017, arXiv:1711.00937): each latent becomes the nearest of a codebook.

    The codebook is the running average of the latents that fall to each code (appendix A.1 there). A code that hardly
    any falls to any more is put on one of the latents at hand (Dhariwal et al. 2020, arXiv:2005.00341). All of that is
    done where latents come with gradients, in training.

    Args:
        number: of codes.
        channels: of the latents.
        decay: of the averages.
    """

    codebook: Tensor  # [number, channels]
    counts: Tensor  # [number]: latents of a step, averaged
    sums: Tensor  # [number, channels]

    commitment = 0.25  # weight of the distance of latents from their codes

    def __init__(self, number: int, channels: int, decay: float = 0.99):
        super().__init__()
        self.number, self.decay = number, decay
        self.register_buffer("codebook", torch.randn(number, channels))
        self.register_buffer("counts", torch.ones(number))
        self.register_buffer("sums", self.codebook.clone())

    def forward(self, latents: Tensor) -> Quantized:
        """The nearest codes, and how far the latents are from them."""
        flat = latents.movedim(1, -1).flatten(0, -2).float()  # [N, C]
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            nearest = self._nearest(flat)
            tokens = nearest.view(len(latents), *latents.shape[2:])
            codes = self.latents_of(tokens).to(latents.dtype)
            if self.training and latents.requires_grad:
                self._learn(flat, nearest)
        distance = (latents - codes).float().square().mean()
        return Quantized(latents + (codes - latents).detach(), tokens, self.commitment * distance)

    def latents_of(self, tokens: Tensor) -> Tensor:
        """`[B, t, h, w]` -> `[B, C, t, h, w]`, as `forward` gave them."""
        return self.codebook[tokens].movedim(-1, 1)

    @torch.no_grad()
    def start(self, latents: Tensor) -> None:
        """Codes are some of these latents `[B, C, t, h, w]`, of which there should be many more."""
        flat = latents.movedim(1, -1).flatten(0, -2).float()
        self.codebook.copy_(flat[_some(self.number, len(flat))])
        self.sums.copy_(self.codebook)
        self.counts.fill_(1)

    def _nearest(self, flat: Tensor) -> Tensor:
        codebook = self.codebook.float()
        # |x - c|^2 without |x|^2, in pieces: all at once it is a matrix of latents and codes
        parts = [(codebook.square().sum(1) - 2 * part @ codebook.T).argmin(1) for part in flat.split(16384)]
        return torch.cat(parts)

    def _learn(self, flat: Tensor, tokens: Tensor) -> None:
        counts = torch.zeros_like(self.counts).index_add_(0, tokens, torch.ones_like(flat[:, 0]))
        sums = torch.zeros_like(self.sums).index_add_(0, tokens, flat)
        fresh = flat[_some(self.number, len(flat))]
        if dist.is_initialized():  # all processes keep one codebook
            dist.all_reduce(counts)
            dist.all_reduce(sums)
            dist.broadcast(fresh, 0)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        even = counts.sum() / self.number  # latents of a code, if all were used alike
        dead = self.counts < 0.03 * even
        self.counts.copy_(torch.where(dead, even, self.counts))
        self.sums.copy_(torch.where(dead[:, None], even * fresh, self.sums))
        self.codebook.copy_(self.sums / self.counts[:, None])


def _some(number: int, of: int) -> Tensor:
    """Which are taken: each once, while there are enough."""
    order = torch.randperm(of)
    return order.repeat(-(-number // of))[:number]
