"""The options of sampling, the same for every verb that makes videos."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, validators
from cyclopts.types import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ..errors import UsageError

EXAMPLES = {"condition": "first_frame=picture.png", "condition_scale": "first_frame=2"}

if TYPE_CHECKING:
    from ..families.base import Opening


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
        image: Picture that the video begins with, for models that take one.
        last_image: Picture that it ends with.
        video: Video to start from, for models that take one.
        strength: How much of that video is made anew, above 0 and up to 1.
        condition: NAME=FILE or NAME=VALUE, one or more: conditions of a model that was trained with some.
        condition_scale: NAME=NUMBER, one or more: how closely to follow a condition; 1 is as learned.
        seed: Seed of the first video; each following one has the next number.
        num_videos_per_prompt: Videos of each prompt.
    """

    negative_prompt: str | None = None
    num_frames: Annotated[PositiveInt | None, Parameter(name=["--num_frames", "--video_length"])] = None
    frame_size: PositiveInt | None = None
    height: PositiveInt | None = None
    width: PositiveInt | None = None
    fps: PositiveFloat | None = None
    num_inference_steps: PositiveInt | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    scheduler: str | None = None
    image: Path | None = None
    last_image: Path | None = None
    video: Path | None = None
    strength: PositiveFloat | None = None
    condition: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None
    condition_scale: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None
    seed: Annotated[int, Parameter(validator=validators.Number(gte=0, lt=2**62))] = 0
    num_videos_per_prompt: PositiveInt = 1


AS_TRAINED = Sampling()


def pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """`NAME=VALUE` as name -> value, as they are typed after `--option`."""
    found: dict[str, str] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise UsageError(f"--{option} is {text!r}. Write NAME=VALUE, as in --{option} {EXAMPLES[option]}.")
        if name in found:
            raise UsageError(f"--{option} names {name} twice. Give it once.")
        found[name] = value
    return found


def numbers(given: list[str] | None, option: str) -> dict[str, float]:
    """The same with numbers."""
    try:
        return {name: float(value) for name, value in pairs(given, option).items()}
    except ValueError as error:
        raise UsageError(f"--{option} takes numbers, as in {EXAMPLES[option]}: {error}.") from None


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """Sampling options of single families of models.

    Args:
        motion_bucket_id: Stable Video Diffusion: how much motion, from 0 to 255.
        noise_aug_strength: Stable Video Diffusion: noise on the first frame; more lets the video leave it.
        decode_chunk_size: Frames decoded together: fewer need less memory.
        use_dynamic_cfg: CogVideoX: guidance that grows from step to step.
        decode_timestep: LTX-Video: noise level that its decoder takes the latents for.
        decode_noise_scale: LTX-Video: noise laid on them before decoding.
        motion_field_strength_x: Text2Video-Zero: how far the picture moves sideways from frame to frame.
        motion_field_strength_y: Text2Video-Zero: how far it moves upwards or downwards.
        guidance_scale_2: Wan 2.2 A14B: guidance of the transformer for low noise; without it, --guidance_scale.
        temperature: Autoregressive: logits are divided by it; 0 takes the likeliest token.
        top_k: Autoregressive: how many of the likeliest tokens are drawn from.
        top_p: Autoregressive: probability of the likeliest tokens that are drawn from, together.
    """

    motion_bucket_id: NonNegativeInt | None = None
    noise_aug_strength: float | None = None
    decode_chunk_size: PositiveInt | None = None
    use_dynamic_cfg: bool | None = None
    decode_timestep: float | None = None
    decode_noise_scale: float | None = None
    motion_field_strength_x: float | None = None
    motion_field_strength_y: float | None = None
    guidance_scale_2: float | None = None
    temperature: NonNegativeFloat | None = None
    top_k: PositiveInt | None = None
    top_p: PositiveFloat | None = None

    def given(self) -> dict[str, Any]:
        """Those that are given."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@Parameter(name="*")
@dataclass(frozen=True)
class Opened:
    """How a model is opened.

    Args:
        variant: Variant of the weight files, such as fp16.
        offload: What leaves the GPU while it is not needed: none, model, group or sequential.
        layerwise_casting: Hold the denoiser's weights as fp8, in half the memory of bf16.
        lora: Adapters: runs' folders or safetensors files.
        motion_adapter: AnimateDiff: folder of the motion adapter, where the model is one of images.
        controlnet: AnimateDiff: folder of a ControlNet, which --video then steers.
        pipeline: Class of diffusers to open the model as, in place of the one that its folder names.
        image_model: Stable Video Diffusion: folder of a text-to-image model, which makes the first frame.
    """

    variant: str | None = None
    offload: Literal["none", "model", "group", "sequential"] = "none"
    layerwise_casting: bool = False
    lora: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None
    motion_adapter: Path | None = None
    controlnet: Path | None = None
    pipeline: str | None = None
    image_model: Path | None = None

    def opening(self) -> "Opening":
        """As the families take it."""
        from ..families.base import Opening

        parts = {name: getattr(self, name) for name in ("motion_adapter", "controlnet", "image_model")}
        own = {name: folder for name, folder in parts.items() if folder is not None}
        how = {"layerwise_casting": self.layerwise_casting, "pipeline": self.pipeline}
        return Opening(self.variant, self.offload, self.lora or (), own, **how)


NO_OPTIONS, AS_USUAL = Options(), Opened()
