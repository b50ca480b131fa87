"""What a video generator learns: that a discriminator takes its videos for real ones that fit their captions.

The hinge loss of Lim and Ye 2017 (arXiv:1705.02894), which DVD-GAN took, for all of them. Beside real videos and made
ones the discriminator sees real ones with another's caption (Reed et al. 2016, arXiv:1605.05396): so it has to read.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.objectives import Batch, Predict


class Adversarial:
    """The objective of a generator and of its discriminator.

    Args:
        discriminator: whose parameters are the second player's.
        sparsity: weight of the mean of a mask, where the generator has one: little should be foreground.
    """

    def __init__(self, discriminator: nn.Module, sparsity: float = 0.1):
        self.discriminator, self.sparsity = discriminator, sparsity

    def players(self, trainable: Iterable[Tensor]) -> dict[str, list[Tensor]]:
        """The generator, with what reads captions, and the discriminator."""
        judging, parameters = {id(p) for p in self.discriminator.parameters()}, list(trainable)
        return {
            "generator": [p for p in parameters if id(p) not in judging],
            "discriminator": [p for p in parameters if id(p) in judging],
        }

    def plays(self, player: str, step: int) -> bool:
        """Both in every step."""
        return True

    def loss(self, predict: Predict, batch: Batch, player: str = "generator") -> Tensor:
        """The loss of one player, a scalar; outside of training (`batch.step` None) the energy score."""
        if batch.step is None:
            return energy_score(predict, batch)
        video, u, caption = batch.x_0, batch.u, batch.condition["caption"]
        if player == "discriminator":
            with torch.no_grad():
                made = predict(batch.noise, u, {"caption": caption}).sample
            other = caption.roll(1, 0)
            captions = torch.stack([caption, other], dim=1)  # [B, 2, D]
            # judged together, so that its wrapper sees one pass forward for one back
            asked = {"judge": captions.repeat(2, 1, 1)}
            judged = predict(torch.cat([video, made.to(video.dtype)]), u.repeat(2), asked).float()
            real, fake = judged.chunk(2)  # each [B, 2, judges]
            differs = (caption != other).any(1, keepdim=True).float()
            wrong = F.relu(1 + fake[:, 0]) + differs * F.relu(1 + real[:, 1])
            return (F.relu(1 - real[:, 0]) + wrong / 2).mean(0).sum()
        made = predict(batch.noise, u, {"caption": caption})
        # words are not to be changed so that the discriminator finds them fitting
        judged = predict(made.sample.to(video.dtype), u, {"judge": caption[:, None].detach()}).float()
        loss = -judged.mean((0, 1)).sum()
        return loss if made.mask is None else loss + self.sparsity * made.mask.float().mean()


def energy_score(predict: Predict, batch: Batch) -> Tensor:
    """How far made videos lie from those of the same captions, less half of how far from each other: lowest, in the
    mean, where they are as varied as those (Gneiting and Raftery 2007, section 4.2). Players' own losses only say who
    is ahead."""
    noise = batch.noise.flatten(1)
    draws = (noise, noise.roll(noise.shape[1] // 2, 1))  # a generator takes the first numbers only
    shape = batch.noise.shape
    one, two = (predict(draw.view(shape), batch.u, batch.condition).sample.float() for draw in draws)

    def apart(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).flatten(1).square().mean(1).sqrt()

    return ((apart(one, batch.x_0) + apart(two, batch.x_0) - apart(one, two)) / 2).mean()
