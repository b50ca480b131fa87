"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) noise, from data (t = 0) to noise (t = num_timesteps).

Time is passed as `[B]` on the scale of the training timesteps; models see it unchanged. Two kinds of path are here:
variance-preserving ones (DDPM, Ho et al. 2020; the cosine schedule of Nichol and Dhariwal 2021), whose timesteps are
whole numbers 0 .. num_timesteps - 1, and the straight path of rectified flow (Liu et al. 2022; Lipman et al. 2022),
whose timesteps are any number in (0, num_timesteps]. A third, of continuous noise levels, is `EDM`.

Samplers are diffusers schedulers, by name. `Schedule.from_scheduler` reads the schedule back from a saved one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from ..errors import UsageError

# Our name -> diffusers' name of a variance-preserving schedule of betas.
BETAS: dict[str, Any] = {"cosine": "squaredcos_cap_v2", "linear": "linear", "scaled_linear": "scaled_linear"}
# Our name -> diffusers' name of a prediction. "flow" stands in this table for schedulers that take a velocity.
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample", "flow": "flow_prediction"}
SAMPLERS = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "dpm++sde": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "flow": FlowMatchEulerDiscreteScheduler,
}
# Lu et al. 2022 (arXiv:2211.01095). With fresh noise in every step, memory of the last one (order 2) gains nothing.
DPM: dict[str, dict[str, Any]] = {
    "dpm++": {"algorithm_type": "dpmsolver++"},
    "dpm++sde": {"algorithm_type": "sde-dpmsolver++", "solver_order": 1},
}


def sampler_name(scheduler: Any) -> str | None:
    """Our name of a diffusers scheduler, or its class's name if it is none of ours; None where a model has none."""
    if scheduler is None:
        return None
    if scheduler.config.get("algorithm_type") == "sde-dpmsolver++":
        return "dpm++sde"
    return next((name for name, kind in SAMPLERS.items() if kind is type(scheduler)), type(scheduler).__name__)


class Schedule:
    """One noise schedule by name: cosine, linear, scaled_linear or flow.

    Args:
        name: which schedule.
        num_timesteps: training timesteps.
        shift: flow only: moves timesteps towards noise, sigma' = shift sigma / (1 + (shift - 1) sigma), for larger
            videos (Esser et al. 2024, eq. 23).
        cumprod: not flow: alpha^2 at each timestep, `[num_timesteps]`, in place of the one that the name means.
        betas: what samplers are told of that, by diffusers' names.
    """

    def __init__(
        self,
        name: str = "cosine",
        num_timesteps: int = 1000,
        shift: float = 1.0,
        cumprod: Tensor | None = None,
        betas: Mapping[str, Any] | None = None,
    ):
        if name not in (*BETAS, "flow"):
            raise UsageError(f"There is no noise schedule {name!r}. Choose one of {', '.join(BETAS)}, flow.")
        self.name, self.num_timesteps, self.shift, self.betas = name, num_timesteps, shift, betas or {}
        if name != "flow":
            if cumprod is None:
                cumprod = DDPMScheduler(num_timesteps, beta_schedule=BETAS[name]).alphas_cumprod
            cumprod = cumprod.double()
            # float32 tables: some devices (MPS) know no float64
            self._alpha, self._sigma = cumprod.sqrt().float(), (1 - cumprod).sqrt().float()

    @property
    def is_flow(self) -> bool:
        """Whether noise is laid on along a straight path."""
        return self.name == "flow"

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), each `[B]` float32, at timesteps t `[B]`."""
        if self.is_flow:
            sigma = t.float() / self.num_timesteps
            return 1 - sigma, sigma
        step = t.long()
        return self._alpha.to(t.device)[step], self._sigma.to(t.device)[step]

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha^2 / sigma^2, `[B]`."""
        alpha, sigma = self.alpha_sigma(t)
        return (alpha / sigma).square()

    def timesteps(self, u: Tensor) -> Tensor:
        """Timesteps `[B]` at quantiles u `[B]` in (0, 1): 0 is the data's end, 1 the noise's."""
        if self.is_flow:
            u = self.shift * u / (1 + (self.shift - 1) * u)
            return (u * self.num_timesteps).clamp(min=1e-3 * self.num_timesteps)
        return (u * self.num_timesteps).floor().clamp(0, self.num_timesteps - 1)

    def at_size(self, shape: Sequence[int]) -> "Schedule":
        """The schedule for what has this shape (frames, height, width): the same for all, in most."""
        return self

    def sampler(self, name: str | None = None, prediction: str = "epsilon", clip: bool = True) -> Any:
        """A diffusers scheduler that samples along this schedule.

        Args:
            name: ddpm, ddim, dpm++, dpm++sde, unipc, euler or flow; none: ddpm, or flow for the straight path.
                dpm++sde adds fresh noise in every step: what one step got wrong, a later one can put right.
            prediction: what the model predicts: epsilon, v, x0 or flow.
            clip: keep x_0 within [-1, 1] on the way (ddpm and ddim): right for pixels, wrong for latents.
        """
        name = name or ("flow" if self.is_flow else "ddpm")
        if name not in SAMPLERS:
            raise UsageError(f"There is no sampler {name!r}. Choose one of {', '.join(SAMPLERS)}.")
        if self.is_flow:
            return self._flow_sampler(name)
        # Few steps of "leading" spacing would start at t = 900, where the training video still shows through.
        common: dict[str, Any] = {
            "num_train_timesteps": self.num_timesteps,
            "beta_schedule": BETAS[self.name],
            "prediction_type": PREDICTIONS[prediction if prediction != "flow" else "epsilon"],
            "timestep_spacing": "trailing",
            **self.betas,
        }
        if name == "ddpm":
            return DDPMScheduler(clip_sample=clip, **common)
        if name == "ddim":
            return DDIMScheduler(clip_sample=clip, set_alpha_to_one=True, **common)
        if name in DPM:
            return DPMSolverMultistepScheduler(**DPM[name], final_sigmas_type="zero", **common)
        if name == "unipc":
            return UniPCMultistepScheduler(final_sigmas_type="zero", **common)
        if name == "euler":
            return EulerDiscreteScheduler(final_sigmas_type="zero", **common)
        raise UsageError(
            f"The sampler 'flow' needs the schedule 'flow'; this model's is {self.name!r}. Try dpm++ or ddim."
        )

    def _flow_sampler(self, name: str) -> Any:
        if name in ("flow", "euler"):
            return FlowMatchEulerDiscreteScheduler(self.num_timesteps, shift=self.shift)
        common: dict[str, Any] = {
            "num_train_timesteps": self.num_timesteps,
            "prediction_type": "flow_prediction",
            "use_flow_sigmas": True,
            "flow_shift": self.shift,
            "final_sigmas_type": "zero",
            "timestep_spacing": "trailing",
        }
        if name in DPM:
            return DPMSolverMultistepScheduler(**DPM[name], **common)
        if name == "unipc":
            return UniPCMultistepScheduler(**common)
        raise UsageError(
            f"The sampler {name!r} does not follow the straight path of this model. "
            "Choose flow, dpm++, dpm++sde or unipc."
        )

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> "Schedule":
        """The schedule that a (saved) diffusers scheduler follows."""
        config = scheduler.config
        if config.get("use_dynamic_shifting"):
            return AutoFlow(config.num_train_timesteps)
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or config.get("use_flow_sigmas"):
            return cls("flow", config.num_train_timesteps, config.get("shift") or config.get("flow_shift") or 1.0)
        names = {theirs: ours for ours, theirs in BETAS.items()}
        # its own table: pretrained models begin and end their betas elsewhere, and some rescale them
        told = ("beta_start", "beta_end", "rescale_betas_zero_snr")
        betas = {name: config[name] for name in told if config.get(name)}
        return cls(
            names[config.beta_schedule], config.num_train_timesteps, cumprod=scheduler.alphas_cumprod, betas=betas
        )


class SizedFlow(Schedule):
    """The straight path, shifted the more to noise the more numbers a video has (Esser et al. 2024, section 5.3.2).

    The shift's logarithm lies on a straight line through two points. As it is added to the logit of a timestep, one
    that is drawn logit-normal gets it as its mean.

    Args:
        few, many: positions in latents (frames x height x width).
        at_few, at_many: logarithm of the shift there.
    """

    def __init__(
        self, few: int = 1024, many: int = 4096, at_few: float = 0.95, at_many: float = 2.05, num_timesteps: int = 1000
    ):
        super().__init__("flow", num_timesteps)
        self.few, self.at_few, self.slope = few, at_few, (at_many - at_few) / (many - few)

    def at_size(self, shape: Sequence[int]) -> Schedule:
        """With the shift for latents of this shape."""
        log_shift = self.at_few + self.slope * (math.prod(shape) - self.few)
        return Schedule("flow", self.num_timesteps, math.exp(log_shift))


class AutoFlow(Schedule):
    """The straight path, shifted to noise by the root of a video's number of positions.

    Neighbouring positions show the same thing, so a larger video shows it through more noise: by Esser et al. 2024
    (arXiv:2403.03206, eq. 23) the shift from n to m positions is sqrt(m / n). As n stands one picture of 64 x 64
    (Hoogeboom et al. 2023, arXiv:2301.11093), of pixels or of latents; smaller ones are not shifted. It comes to 1 for
    five frames of 28 x 28, 4 for 16 of 64 x 64, and 5.7 for 21 of 60 x 104, which published models shift by 3 to 5.
    """

    positions = 64 * 64

    def __init__(self, num_timesteps: int = 1000):
        super().__init__("flow", num_timesteps)

    def at_size(self, shape: Sequence[int]) -> Schedule:
        """With the shift for (frames, height, width) of what is denoised."""
        shift = max(math.sqrt(math.prod(shape) / self.positions), 1.0)
        return Schedule("flow", self.num_timesteps, shift)

    def _flow_sampler(self, name: str) -> Any:
        """The sampler is told the shift at each `set_timesteps`, as `mu`, its logarithm."""
        usual = super()._flow_sampler(name)
        return type(usual).from_config(usual.config, use_dynamic_shifting=True, time_shift_type="exponential")


class EDM(Schedule):
    """Continuous noise levels (Karras et al. 2022, arXiv:2206.00364), x = x_0 + s noise, in our terms.

    What the denoiser sees is x / sqrt(1 + s^2), so alpha = 1 / sqrt(1 + s^2) and sigma = s alpha; its timestep is
    t = log(s) / 4. What it answers there is v, and the paper's loss weight comes out as 1.

    Args:
        log_mean, log_std: of log(s) in training; those of Stable Video Diffusion (arXiv:2311.15127).
    """

    def __init__(self, log_mean: float = 0.7, log_std: float = 1.6):
        self.name, self.num_timesteps, self.shift = "edm", 1000, 1.0
        self.log_mean, self.log_std = log_mean, log_std

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), each `[B]` float32, at timesteps t `[B]`, of any size and sign."""
        level = (4 * t.float()).exp()
        alpha = (1 + level.square()).rsqrt()
        return alpha, level * alpha

    def timesteps(self, u: Tensor) -> Tensor:
        """Timesteps `[B]` at quantiles u `[B]` in (0, 1) of the log-normal levels of training."""
        normal = torch.special.ndtri(u.cpu().double()).float().to(u.device)
        return (self.log_mean + self.log_std * normal) / 4

    def sampler(self, name: str | None = None, prediction: str = "v", clip: bool = False) -> Any:
        """Euler's steps over the levels of Karras et al., with those of Stable Video Diffusion at their ends."""
        if name not in (None, "euler"):
            raise UsageError(f"The sampler {name!r} does not take continuous noise levels. Choose euler.")
        return EulerDiscreteScheduler(
            prediction_type=PREDICTIONS[prediction],
            timestep_type="continuous",
            use_karras_sigmas=True,
            sigma_min=0.002,
            sigma_max=700.0,
        )
