"""The randomness of a training step, as a function of (seed, step, sample index) and nothing else.

No generator lives from step to step, so a resumed run draws what the unbroken one would have drawn, and a batch
draws the same whether one process holds it or several share it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..diffusion.seeds import generator
from ..models.codecs import Latents


def draw(
    seed: int, step: int, indices: range, num_samples: int, shape: torch.Size
) -> tuple[Tensor, Tensor, list[float]]:
    """Noise `[B, *shape]`, noise levels u `[B]` and a uniform number for each sample of a step.

    The levels are stratified: one in each of `num_samples` equal parts of (0, 1), which makes the loss of a step less
    noisy (Kingma et al. 2021, appendix I.1).

    Args:
        indices: which of the step's samples, counted over all processes and micro-steps.
        num_samples: how many samples the step has in all.
        shape: of one sample.
    """
    noise, levels, uniform = torch.empty(len(indices), *shape), torch.empty(len(indices)), []
    for row, index in enumerate(indices):
        source = generator(seed, 10, step, index)
        torch.randn(shape, generator=source, out=noise[row])
        within, other = torch.rand(2, generator=source, dtype=torch.float64).tolist()
        levels[row] = min(max((index + within) / num_samples, 1e-6), 1 - 1e-6)
        uniform.append(other)
    return noise, levels, uniform


def draw_latents(latents: Latents, keys: Sequence[tuple[int, ...]]) -> Tensor:
    """One draw `[B, C, t, h, w]` from the distribution that each video was encoded to, by a key for each."""
    if latents.logvar is None:
        return latents.mean
    shape = latents.mean.shape[1:]
    noise = torch.stack([torch.randn(shape, generator=generator(*key)) for key in keys])
    return latents.sample(noise.to(latents.mean.device))
