"""What a denoiser learns: predictions, their conversions, loss weights, and the text-to-video diffusion objective.

With x_t = alpha x_0 + sigma noise, a model may predict (Salimans and Ho 2022; Lipman et al. 2022)

    epsilon = noise          v = alpha noise - sigma x_0          x0 = x_0          flow = noise - x_0

Each determines the others, so training and sampling may use different ones.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import UsageError
from .schedules import PREDICTIONS, Schedule
from .seeds import generator

Predict = Callable[[Tensor, Tensor, dict[str, Any]], Any]
"""(x_t `[B, C, T, H, W]`, t `[B]` or for each frame `[B, T]`, condition) -> prediction `[B, C, T, H, W]`, or whatever
else a family answers."""
PredictPack = Callable[[list[Tensor], Tensor, dict[str, Any]], list[Tensor]]
"""The same of clips `[C, T, H, W]` of any shapes at once, with one timestep and one row of each condition for each."""


def expand(values: Tensor, like: Tensor) -> Tensor:
    """`[B]` -> `[B, 1, 1, 1, 1]`, `[B, T]` -> `[B, 1, T, 1, 1]`: the one place where time meets video."""
    if values.ndim == 2:
        return values[:, None, :, *[None] * (like.ndim - 3)]
    return values.view(-1, *[1] * (like.ndim - 1))


def target(prediction: str, x_0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What a perfect model would answer. alpha and sigma broadcast against x_0."""
    if prediction == "epsilon":
        return noise
    if prediction == "v":
        return alpha * noise - sigma * x_0
    if prediction == "x0":
        return x_0
    return noise - x_0


def to_x_0(prediction: str, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The x_0 that a model's output stands for."""
    if prediction == "epsilon":
        return (x_t - sigma * output) / alpha
    if prediction == "v":  # holds where alpha^2 + sigma^2 = 1, and divided by their sum everywhere
        return (alpha * x_t - sigma * output) / (alpha.square() + sigma.square())
    if prediction == "x0":
        return output
    return (x_t - sigma * output) / (alpha + sigma)


def convert(output: Tensor, given: str, wanted: str, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """A model's output of one prediction as another. sigma must not be 0, unless x0 is wanted."""
    if given == wanted:
        return output
    x_0 = to_x_0(given, output, x_t, alpha, sigma)
    return x_0 if wanted == "x0" else target(wanted, x_0, (x_t - alpha * x_0) / sigma, alpha, sigma)


@dataclass
class Batch:
    """What one step trains on. `noise` and `u` are given, not drawn, so that a step can be repeated exactly."""

    x_0: Tensor  # [B, C, T, H, W], in [-1, 1] or normalised latents
    noise: Tensor  # [B, C, T, H, W], standard normal
    u: Tensor  # [B] in (0, 1): which noise level, before the objective's own distribution
    condition: dict[str, Any] = field(default_factory=dict)
    step: int | None = None  # of the run; None outside of training, as where a loss is only looked at


class Objective(Protocol):
    """A batch -> a loss for each player. One player is the normal case; two make an adversarial game."""

    def players(self, trainable: Iterable[Tensor]) -> dict[str, list[Tensor]]:
        """Player -> its parameters; each player has its own optimiser."""
        ...

    def plays(self, player: str, step: int) -> bool:
        """Whether a player steps in a step; the first one always does."""
        ...

    def loss(self, predict: Predict, batch: Batch, player: str) -> Tensor:
        """The loss of one player. Players step one after another, in the order of `players`."""
        ...


def packed_loss(objective: Objective, predict: PredictPack, clips: Sequence[Batch], player: str) -> Tensor:
    """The mean of the losses of several clips, each a batch of one, predicted all at once.

    The objective is asked twice: first what it wants predicted for each clip, then, with the answers, for its loss. So
    every objective can be packed that asks for one prediction, and draws nothing itself.

    Raises:
        UsageError: it asks for none, or for several.
    """
    asked: list[tuple[Tensor, Tensor, dict[str, Any]]] = []

    def listen(x_t: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        asked.append((x_t, t, condition))
        return x_t

    with torch.no_grad():
        for clip in clips:
            objective.loss(listen, clip, player)
    if len(asked) != len(clips):
        raise UsageError(
            f"{type(objective).__name__} asks for {len(asked) / len(clips):g} predictions of a clip, and packed clips "
            "have one: leave out --pack."
        )
    x_t, t, conditions = zip(*asked, strict=True)
    condition = {name: torch.cat([own[name] for own in conditions]) for name in conditions[0]}
    answers = predict([one[0] for one in x_t], torch.cat(t), condition)
    losses = [
        objective.loss(lambda *_, found=answer[None]: found, clip, player)
        for clip, answer in zip(clips, answers, strict=True)
    ]
    return torch.stack(losses).mean()


class TextToVideoDiffusion:
    """Diffusion over video, given text: the training objective (Ho et al. 2020, 2022).

    Args:
        schedule: cosine, linear, scaled_linear or flow; or a `Schedule`, whose timesteps and shift are its own.
        num_timesteps: training timesteps.
        prediction: epsilon, v, x0 or flow.
        weighting: uniform, or min_snr (Hang et al. 2023).
        min_snr_gamma: gamma of min_snr.
        timesteps: uniform or logit_normal (Esser et al. 2024, section 3.1).
        logit_mean, logit_std: of logit_normal; a higher mean trains more on noise.
        shift: of the flow schedule.
        edge_weight: how much the error's differences between neighbouring pixels count besides the error itself. The
            best answer stays the same, as for every quadratic loss; outlines, a small part of it, are learned sooner.
        forcing: "none": one noise level for all of a clip. "independent": one for each block of frames (diffusion
            forcing: Chen et al. 2024, arXiv:2407.01392), and in every other clip all blocks before one of them are
            clean, as where a video is streamed. Clean blocks are not learned from.
        block: frames of such a block, of what is denoised.
    """

    def __init__(
        self,
        schedule: str | Schedule = "cosine",
        num_timesteps: int = 1000,
        prediction: str = "epsilon",
        weighting: str = "uniform",
        min_snr_gamma: float = 5.0,
        timesteps: str = "uniform",
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        shift: float = 1.0,
        edge_weight: float = 0.0,
        forcing: str = "none",
        block: int = 1,
    ):
        for value, known in (
            (prediction, tuple(PREDICTIONS)),
            (weighting, ("uniform", "min_snr")),
            (timesteps, ("uniform", "logit_normal")),
            (forcing, ("none", "independent")),
        ):
            if value not in known:
                raise UsageError(f"{value!r} is none of {', '.join(known)}.")
        if isinstance(schedule, str):
            schedule = Schedule(schedule, num_timesteps, shift)
        if schedule.is_flow and prediction == "epsilon":
            raise UsageError(
                "prediction epsilon says nothing about the video where the flow schedule is pure noise. "
                "Choose prediction flow, x0 or v, or the cosine schedule."
            )
        self.schedule = schedule
        self.prediction, self.weighting, self.min_snr_gamma = prediction, weighting, min_snr_gamma
        self.timestep_distribution, self.logit_mean, self.logit_std = timesteps, logit_mean, logit_std
        self.edge_weight, self.forcing, self.block = edge_weight, forcing, block

    def players(self, trainable: Iterable[Tensor]) -> dict[str, list[Tensor]]:
        """One player: everything that trains."""
        return {"denoiser": list(trainable)}

    def plays(self, player: str, step: int) -> bool:
        """Always."""
        return True

    def timesteps(self, u: Tensor, shape: Sequence[int] = ()) -> Tensor:
        """Timesteps from uniform numbers u in (0, 1), one for each, by inverse transform sampling.

        Args:
            shape: (frames, height, width) of what is denoised, for schedules that depend on it.
        """
        if self.timestep_distribution == "logit_normal":
            u = (
                torch.sigmoid(self.logit_mean + self.logit_std * torch.special.ndtri(u.cpu().double()))
                .float()
                .to(u.device)
            )
        return self.schedule.at_size(shape).timesteps(u)

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t `[B, C, T, H, W]` at timesteps t `[B]` or `[B, T]`."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        return expand(alpha, x_0) * x_0 + expand(sigma, x_0) * noise

    def weight(self, t: Tensor) -> Tensor:
        """Loss weight of each timestep. Min-SNR clips the weight that each prediction puts on x_0's error at gamma."""
        if self.weighting == "uniform":
            return torch.ones_like(t, dtype=torch.float32)
        alpha, sigma = self.schedule.alpha_sigma(t)
        snr = self.schedule.snr(t)
        clipped = snr.clamp(max=self.min_snr_gamma)
        # error of the prediction = (its factor) * error of x_0; dividing it out leaves min(snr, gamma) on x_0
        factor = {"epsilon": snr, "v": (alpha.square() + sigma.square()).square() / sigma.square()}
        factor |= {"x0": torch.ones_like(snr), "flow": ((alpha + sigma) / sigma).square()}
        return clipped / factor[self.prediction].clamp(min=1e-8)

    def loss(self, predict: Predict, batch: Batch, player: str = "denoiser") -> Tensor:
        """The weighted mean squared error of the prediction, a scalar."""
        if self.forcing == "independent":
            u, learned = levels_of_blocks(batch.u, batch.x_0.shape[2], self.block)  # each [B, T]
            t = self.timesteps(u, batch.x_0.shape[2:]) * learned
            weight = torch.where(learned, self.weight(t), 0) / learned.float().mean(1, keepdim=True)
        else:
            t = self.timesteps(batch.u, batch.x_0.shape[2:])
            weight = self.weight(t)[:, None]
        output = predict(self.add_noise(batch.x_0, batch.noise, t), t, batch.condition).float()
        alpha, sigma = (expand(level, batch.x_0) for level in self.schedule.alpha_sigma(t))
        wanted = target(self.prediction, batch.x_0, batch.noise, alpha, sigma)
        residual = output - wanted
        error = residual.square().mean((1, 3, 4))  # [B, T]
        if self.edge_weight:
            for axis in (-1, -2):
                error = error + self.edge_weight * residual.diff(dim=axis).square().mean((1, 3, 4))
        return (weight * error).mean()


def levels_of_blocks(u: Tensor, frames: int, block: int) -> tuple[Tensor, Tensor]:
    """A noise level for each block of a clip's frames, and which frames are learned: `[B, frames]` in (0, 1), and bool.

    The last block may have fewer frames. The others are clean, those before a block that is drawn, in every other clip.
    Everything follows from u `[B]`, which is one of the levels itself.
    """
    blocks = -(-frames // block)
    levels, first = torch.empty(len(u), blocks), torch.zeros(len(u), 1, dtype=torch.long)
    for row, level in enumerate(u.tolist()):
        draws = generator(int(level * 2**32))
        levels[row] = torch.rand(blocks, generator=draws).clamp(1e-6, 1 - 1e-6)
        clean = int(torch.randint(2 * blocks, (), generator=draws))
        first[row] = clean if clean < blocks else 0
        levels[row, first[row]] = level
    own = torch.arange(frames) // block  # the block of each frame
    return levels[:, own].to(u.device), (own >= first).to(u.device)
