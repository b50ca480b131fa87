"""Sampling with a diffusers scheduler, and classifier-free guidance (Ho and Salimans 2022)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from ..errors import UsageError
from .objectives import Predict, convert, expand
from .schedules import PREDICTIONS, Schedule

_OURS = {theirs: ours for ours, theirs in PREDICTIONS.items()}


def guided(
    predict: Predict,
    scale: float,
    negative: dict[str, Any] | None,
    interval: tuple[float, float] | None = None,
    others: Sequence[tuple[float, dict[str, Any]]] = (),
) -> Predict:
    """A prediction pushed away from what it would be without one condition or another, each with a scale of its own:

        positive + sum of (scale - 1) (positive - without)

    With the caption alone that is classifier-free guidance. All are predicted in one call of so many times the batch;
    at scale 1 nothing is pushed away from. A sum of differences as in Liu et al. 2022 (arXiv:2206.01714), each taken
    where all other conditions are given, as the caption's is in Brooks et al. 2023 (arXiv:2211.09800).

    Args:
        scale, negative: of the caption; None: there is none to push away from.
        interval: the lowest and the highest timestep with guidance; at the others the prediction is the plain one.
            Guidance at little noise drives colours too far, and at the most noise it takes variety (Kynkäänniemi et
            al. 2024, arXiv:2404.07724).
        others: scale and whole condition without one of the others.
    """
    pushes = [] if negative is None else [(scale, negative)]
    pushes = [(how, without) for how, without in [*pushes, *others] if how != 1.0]
    if not pushes:
        return predict
    low, high = interval or (0.0, float("inf"))

    def predict_guided(x_t: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        if not low <= float(t[0]) <= high:  # all videos of a batch are at the same timestep
            return predict(x_t, t, condition)
        rows = [*(without for _, without in pushes), condition]
        all_rows = {name: torch.cat([row[name] for row in rows]) for name in condition}
        found = predict(torch.cat([x_t] * len(rows)), torch.cat([t] * len(rows)), all_rows).float().chunk(len(rows))
        towards, (first, *_) = found[-1], pushes
        output = found[0] + first[0] * (towards - found[0])
        for (how, _), away in zip(pushes[1:], found[1:-1], strict=True):
            output = output + (how - 1) * (towards - away)
        return output

    return predict_guided


def default_steps(scheduler: Any) -> int:
    """Steps where none are asked for: ancestral DDPM walks all its timesteps, the others take 50."""
    timesteps = scheduler.config.num_train_timesteps
    return timesteps if type(scheduler).__name__ == "DDPMScheduler" else min(50, timesteps)


@torch.no_grad()
def sample(
    predict: Predict,
    scheduler: Any,
    noise: Tensor,
    condition: dict[str, Any],
    prediction: str = "epsilon",
    num_inference_steps: int | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    on_step: Callable[[int, int, Tensor], None] | None = None,
    shape: Sequence[int] | None = None,
) -> Tensor:
    """x_0 `[B, C, T, H, W]` float32, from noise of that shape.

    Args:
        predict: the (guided) model.
        scheduler: a diffusers scheduler; its noise, if it adds any, comes from `generator`.
        prediction: what the model predicts, which may differ from what the scheduler takes.
        num_inference_steps: `default_steps` where none are given.
        on_step: called with (steps done, steps, x_t) after each step.
        shape: (frames, height, width) that the schedule is for, where the noise is part of a longer video.

    Raises:
        UsageError: more steps than training timesteps.
    """
    schedule = Schedule.from_scheduler(scheduler)
    # FlowMatchEuler has no prediction_type: it takes a velocity.
    wanted = _OURS[scheduler.config.get("prediction_type", "flow_prediction")]
    steps = num_inference_steps or default_steps(scheduler)
    if not 0 < steps <= schedule.num_timesteps:
        raise UsageError(f"num_inference_steps is {steps}; this model has 1 to {schedule.num_timesteps} steps.")
    shift = schedule.at_size(shape or noise.shape[2:]).shift
    mu = {"mu": math.log(shift)} if scheduler.config.get("use_dynamic_shifting") else {}
    _set_timesteps(scheduler, steps, noise.device, **mu)
    draws = "generator" in scheduler.step.__code__.co_varnames
    x_t = noise if schedule.is_flow else noise * scheduler.init_noise_sigma
    for step, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x_t, t) if hasattr(scheduler, "scale_model_input") else x_t
        # Some schedulers cut the straight path's timesteps to whole numbers; their sigmas are exact.
        exact = scheduler.sigmas[step] * schedule.num_timesteps if schedule.is_flow else t
        level = exact.to(scaled.device, torch.float32).expand(len(scaled))  # [B]
        output = predict(scaled, level, condition).float()
        alpha, sigma = (expand(value, scaled) for value in schedule.alpha_sigma(level))
        output = convert(output, prediction, wanted, scaled, alpha, sigma)
        x_t = scheduler.step(output, t, x_t, **({"generator": generator} if draws else {})).prev_sample
        if on_step:
            on_step(step + 1, len(scheduler.timesteps), x_t)
    return x_t


def _set_timesteps(scheduler: Any, steps: int, device: torch.device, **how: Any) -> None:
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        # Left alone, it spends its last step on sigma = 1 / num_timesteps, where nothing is left to do.
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps).tolist(), device=device, **how)
    else:
        scheduler.set_timesteps(steps, device=device, **how)
