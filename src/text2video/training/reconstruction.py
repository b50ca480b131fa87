"""What a video autoencoder learns: to give back its videos, from latents that stay near the standard normal, or from
tokens.

The loss is the evidence bound of Kingma and Welling 2014 (arXiv:1312.6114), its divergence weighted as in Rombach et
al. 2022 (arXiv:2112.10752), with perceptual features and, as a second player, a discriminator whose judgement is turned
from a step on (Esser et al. 2021, arXiv:2012.09841; the hinge loss is that of Lim and Ye 2017, arXiv:1705.02894).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.objectives import Batch, Predict


def log_mse(x: Tensor, y: Tensor) -> Tensor:
    """The mean over clips of the logarithm of each one's mean square, which is what PSNR measures: an easy clip counts
    as much as a hard one. Errors below one level of 255 are as good as none."""
    return ((x - y).square().flatten(1).mean(1) + (2 / 255) ** 2).log().mean()


PIXEL_ERRORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "log_mse": log_mse,
    "l1": F.l1_loss,
    "huber": lambda x, y: F.huber_loss(x, y, delta=0.1),
}


class Reconstruction:
    """The objective of an autoencoder `vae`, and of its `discriminator` where there is one.

    Args:
        reconstruction: mse, log_mse, l1 or huber (quadratic below a twentieth of the range of pixels).
        kl_weight: of the divergence, a sum over the latents' channels and a mean over their places.
        features: `[B, 3, T, H, W]` in [-1, 1] -> tensors whose errors are perceptual; None: pixels only.
        perceptual_weight: of their mean absolute error.
        discriminator: module that is trained against the autoencoder; None: there is none.
        adversarial_weight: of its judgement.
        adversarial_start: step from which on there is one.
    """

    def __init__(
        self,
        reconstruction: str = "mse",
        kl_weight: float = 1e-6,
        features: nn.Module | None = None,
        perceptual_weight: float = 0.0,
        discriminator: nn.Module | None = None,
        adversarial_weight: float = 0.0,
        adversarial_start: int = 0,
    ):
        self.error = PIXEL_ERRORS[reconstruction]
        self.kl_weight = kl_weight
        self.features, self.perceptual_weight = features, perceptual_weight
        self.discriminator = discriminator
        self.adversarial_weight, self.adversarial_start = adversarial_weight, adversarial_start

    def players(self, trainable: Iterable[Tensor]) -> dict[str, list[Tensor]]:
        """The autoencoder, and the discriminator where there is one."""
        judging = {id(p) for p in self.discriminator.parameters()} if self.discriminator is not None else set()
        parameters = list(trainable)
        players = {"vae": [p for p in parameters if id(p) not in judging]}
        if judging:
            players["discriminator"] = [p for p in parameters if id(p) in judging]
        return players

    def plays(self, player: str, step: int) -> bool:
        """The discriminator from its first step on."""
        return player == "vae" or step >= self.adversarial_start

    def loss(self, predict: Predict, batch: Batch, player: str = "vae") -> Tensor:
        """The loss of one player, a scalar. Outside of training (`batch.step` None) nothing adversarial counts."""
        video, condition = batch.x_0, {"noise": batch.noise}
        if player == "discriminator":
            with torch.no_grad():
                made = predict(video, batch.u, condition).sample
            # judged together, so that its wrapper sees one pass forward for one back
            judged = predict(torch.cat([video, made.to(video.dtype)]), batch.u, {"judge": True}).float()
            real, fake = judged.chunk(2)
            return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
        output = predict(video, batch.u, condition)
        sample = output.sample.float()
        loss = self.error(sample, video) + self.bottleneck(output)
        if self.features is not None and self.perceptual_weight:
            loss = loss + self.perceptual_weight * feature_error(self.features, sample, video)
        if self.discriminator is not None and batch.step is not None and self.plays("discriminator", batch.step):
            loss = loss - self.adversarial_weight * predict(sample, batch.u, {"judge": True}).float().mean()
        return loss

    def bottleneck(self, output: Any) -> Tensor:
        """What keeps latents near the standard normal."""
        return self.kl_weight * divergence(output.mean, output.logvar)


class TokenReconstruction(Reconstruction):
    """The objective of a tokenizer: as of an autoencoder, with the quantiser's own loss in place of the divergence."""

    def bottleneck(self, output: Any) -> Tensor:
        """What keeps latents near their codes."""
        return output.loss.float()


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(normal(mean, exp(logvar)) || standard normal): summed over the channels of `[B, C, t, h, w]`, a mean over
    places."""
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()


def feature_error(features: Any, made: Tensor, video: Tensor) -> Tensor:
    """The mean absolute error of features, averaged over their tensors."""
    features = features.to(video.device)
    with torch.no_grad():
        wanted = features(video)
    errors = [F.l1_loss(ours.float(), theirs.float()) for ours, theirs in zip(features(made), wanted, strict=True)]
    return torch.stack(errors).mean()
