"""The options of sampling, the same for every verb that makes videos."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveFloat, PositiveInt


@Parameter(name="*")
@dataclass(frozen=True)
class Sampling:
    """How videos are made; what is not given is as the model was trained.

    Args:
        negative_prompt: What the videos should not show.
        num_frames: Frames of each video.
        frame_size: Height and width in pixels.
        height: Height in pixels.
        width: Width in pixels.
        fps: Frames a second of the files.
        num_inference_steps: Sampling steps: more are slower and often better.
        guidance_scale: How closely to follow the prompt; 1 is no guidance.
        guidance_interval: Lowest and highest noise level with guidance, from 0 to 1.
        scheduler: Sampler: ddpm, ddim, dpm++, dpm++sde, unipc, euler or flow.
        seed: Seed of the first video; each following one has the next number.
        num_videos_per_prompt: Videos of each prompt.
    """

    negative_prompt: str = ""
    num_frames: Annotated[PositiveInt | None, Parameter(name=["--num_frames", "--video_length"])] = None
    frame_size: PositiveInt | None = None
    height: PositiveInt | None = None
    width: PositiveInt | None = None
    fps: PositiveFloat | None = None
    num_inference_steps: PositiveInt | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    scheduler: str | None = None
    seed: NonNegativeInt = 0
    num_videos_per_prompt: PositiveInt = 1


AS_TRAINED = Sampling()
