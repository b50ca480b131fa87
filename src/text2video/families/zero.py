"""Text2Video-Zero (Khachatryan et al. 2023, arXiv:2303.13439): videos from a model of images, without any training.

The first frame is denoised part of the way; the others begin as that frame, moved, and noised again; all of them then
attend to the first. So a folder of Stable Diffusion is enough, opened as `TextToVideoZeroPipeline`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .base import Defaults, Opening, Published, Task
from .pretrained import PretrainedFamily

_T0, _T1, _STEPS = 44, 47, 50  # the published numbers of steps that are left at T_0 and T_1, and of all steps


class TextToVideoZero(PretrainedFamily):
    """Stable Diffusion, frame by frame, with motion between the frames."""

    name = "text2video-zero"
    pipelines: ClassVar = {"text-to-video": "TextToVideoZeroPipeline"}
    standard = Defaults(8, 512, 512, 4.0, _STEPS, 7.5)  # diffusers' defaults, and 4 frames a second as the authors'
    options = frozenset({"motion_field_strength_x", "motion_field_strength_y"})
    denoiser_names = ("unet",)
    dtype = torch.float16
    published = (
        Published(
            "stable-diffusion-v1-5/stable-diffusion-v1-5", ("text-to-video",), "CreativeML Open RAIL-M", 0.86, 4.3
        ),
    )

    def opened_as(self, name: str, opening: Opening) -> str:
        """Also a plain model of images."""
        return "TextToVideoZeroPipeline"

    def components(self, path: Path, dtype: torch.dtype, opening: Opening) -> dict[str, Any]:
        """Everything from the folder but its filter of pictures."""
        rest = super().components(path, dtype, opening)
        return {**rest, "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    def trainable(self, pipe: Any) -> dict[str, nn.Module]:
        """Nothing. Raises UsageError."""
        raise UsageError(
            "Text2Video-Zero makes videos of a model of images without training, and cannot be trained. Train its "
            "motion instead, with AnimateDiff: give the folder of Stable Diffusion, and --motion_adapter."
        )

    def use_sampler(self, pipe: Any, name: str) -> None:
        """See `PretrainedFamily.use_sampler`; Euler's steps scale the noise in another way than the frames do."""
        if name == "euler":
            raise UsageError(f"A {self.name} model has no sampler 'euler'. Choose ddim, ddpm, dpm++ or unipc.")
        super().use_sampler(pipe, name)

    def sample(
        self,
        pipe: Any,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        on_step: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> Tensor:
        """See `PretrainedFamily.sample`; the three loops of a video are reported as one."""
        if settings["guidance_scale"] <= 1:
            raise UsageError(f"A {self.name} model needs guidance: give --guidance_scale above 1.")
        t_0, t_1 = turning_points(settings["num_inference_steps"])
        done, total = 0, settings["num_inference_steps"] + t_1 - t_0

        def counted(step: int, steps: int) -> None:
            nonlocal done
            done = done % total + 1
            if on_step:
                on_step(done, total)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of torch, about this older pipeline's own calls
            return super().sample(pipe, prompts, generators, counted, **settings)

    def arguments(self, pipe: Any, task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Its own names for the number of frames and for where motion enters."""
        t_0, t_1 = turning_points(settings["num_inference_steps"])
        frames = settings["num_frames"]
        return {**super().arguments(pipe, task, settings), "video_length": frames, "t0": t_0, "t1": t_1}

    def frames(self, output: Any) -> Tensor:
        """An array `[T, H, W, 3]` -> `[1, T, 3, H, W]`."""
        return torch.from_numpy(output.images).permute(0, 3, 1, 2)[None]


def turning_points(steps: int) -> tuple[int, int]:
    """How many steps are left at T_0, where the first frame is moved, and at T_1, where all frames go on together.

    They lie at the published noise levels for any number of steps.

    Raises:
        UsageError: there are too few steps for both.
    """
    if steps < 3:
        raise UsageError(f"Text2Video-Zero needs 3 or more sampling steps, and num_inference_steps is {steps}.")
    t_1 = min(round(_T1 / _STEPS * steps), steps - 2)
    return min(round(_T0 / _STEPS * steps), t_1 - 1), t_1
