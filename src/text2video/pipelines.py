"""The text-to-video pipeline: our models as a diffusers `DiffusionPipeline`, a folder that loads anywhere."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .diffusion.guidance import guided, sample
from .diffusion.schedules import Schedule
from .errors import UsageError

# The parts of a saved pipeline are found among imported modules only.
from .models import latent_unet as latent_unet
from .models import text as text
from .models import transformer as transformer
from .models import unet3d as unet3d
from .models import video_vae as video_vae
from .models.codecs import OURS, Geometry, decode, encode, geometry_of
from .models.conditions import conditions_of, keywords
from .models.text import TextEncoder
from .sizes import ShapeRules
from .streaming import Asking, Plan, stream
from .text_pipelines import DENOISERS, TextPipeline, TextToVideoOutput
from .text_pipelines import aligned as aligned
from .video import View


class TextToVideoPipeline(TextPipeline):
    """Text -> videos, with a denoiser, a text encoder with its tokenizer, a scheduler, and a codec or none.

    A frozen part may be left on the disk (`leave_on_disk`), and is then None.

    Args:
        unet, transformer: the denoiser, of pixels or of the codec's latents; one of the two.
        scheduler: a diffusers scheduler: the schedule trained on, and the sampler used when none is named.
        training_shift: the shift that it was trained with, a number or "auto"; None: the scheduler's.
        text_encoder, tokenizer: see `TextEncoder`.
        prediction: what the denoiser predicts: epsilon, v, x0 or flow.
        vae: an autoencoder between videos and what is denoised; None: pixels are denoised.
        num_frames, height, width, fps: of the videos it was trained on, and what it makes when not told otherwise.
        guidance_scale, guidance_interval, num_inference_steps: used when not told otherwise; interval None: guidance
            at every noise level; steps None: the sampler's own.
        filled_captions: see `TextEncoder`.
    """

    model_cpu_offload_seq = "text_encoder->unet->transformer->vae"
    _optional_components = ["text_encoder", "vae", *DENOISERS]  # noqa: RUF012 - the name and type that diffusers reads

    def __init__(
        self,
        scheduler: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any = None,
        transformer: Any = None,
        vae: Any = None,
        prediction: str = "epsilon",
        num_frames: int = 16,
        height: int = 64,
        width: int = 64,
        fps: float = 8,
        guidance_scale: float = 3.0,
        num_inference_steps: int | None = None,
        guidance_interval: Sequence[float] | None = None,
        filled_captions: bool = False,
        training_shift: float | str | None = None,
    ):
        super().__init__()
        self.register_modules(scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer)
        self.register_modules(unet=unet, transformer=transformer, vae=vae)
        self.register_to_config(
            prediction=prediction,
            num_frames=num_frames,
            height=height,
            width=width,
            fps=fps,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            guidance_interval=guidance_interval,
            filled_captions=filled_captions,
            training_shift=training_shift,
        )

    @property
    def is_latent(self) -> bool:
        """Whether it denoises a codec's latents, in memory or not."""
        return self.vae is not None or "vae" in left_on_disk(self)

    @property
    def geometry(self) -> Geometry | None:
        """Of the codec; None where pixels are denoised."""
        if "vae" in left_on_disk(self):
            return Geometry.read(left_on_disk(self)["vae"])
        return geometry_of(self.vae) if self.vae is not None else None

    @property
    def rules(self) -> ShapeRules:
        """The videos that it can take and make."""
        return self.geometry.rules(self.denoiser.rules) if self.geometry else self.denoiser.rules

    def reader(self) -> TextEncoder:
        """What reads prompts: the tokenizer with its text encoder."""
        return TextEncoder(self.tokenizer, self.text_encoder, filled=self.config["filled_captions"])

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        negative_prompt: str = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        condition: dict[str, Tensor] | None = None,
        conditions: Mapping[str, Any] | None = None,
        condition_scales: Mapping[str, float] | None = None,
        fps: float | None = None,
        on_step: Callable[[int, int, Tensor], None] | None = None,
    ) -> Tensor:
        """One video for each prompt and generator, as a batch: `[B, C, T, H, W]` float32 in [-1, 1].

        Each video's noise comes from its own generator, so a video does not depend on its neighbours.

        Args:
            guidance_interval: lowest and highest noise level with guidance, as parts of the schedule: 0 is clean, 1
                pure noise.
            condition: further keyword arguments of the denoiser, first axis B.
            conditions: of all videos alike: name -> what its kind can read, such as a file, frames or a name; those
                that are left out are not given.
            condition_scales: name -> how closely to follow it, in place of the model's own; 1 is as learned.
            fps: when the frames are, for conditions in time such as a sound; None: they share all of it.
            on_step: called with (step, steps, x_t).

        Raises:
            UsageError: the size or the number of frames is none that the denoiser's strides allow, or the model has no
                such condition.
            DataError, VideoError: a condition cannot be read.
        """
        config: Any = self.config
        if getattr(self.denoiser, "is_cache_enabled", False):  # what diffusers' caches keep is of another video
            self.denoiser._reset_stateful_cache()
        channels: int = self.denoiser.config["in_channels"]
        shape: tuple[int, ...] = (num_frames or config.num_frames, height or config.height, width or config.width)
        self.rules.check(shape)
        told = self.read_conditions(conditions or {}, View(*shape, fps=fps), len(prompts))
        if self.vae is not None:
            shape = geometry_of(self.vae).latent_shape(shape)
        scale, interval = self.guidance(guidance_scale, guidance_interval)
        device = self._execution_device
        noise = torch.stack([torch.randn((channels, *shape), generator=g, device=g.device) for g in generators])

        negative, ask = self.encode_prompts(prompts, negative_prompt, scale, {**(condition or {}), **told})
        scales = self.condition_scales(condition_scales or {})
        without = [(scales[name], {**ask, name: torch.zeros_like(value)}) for name, value in told.items()]
        x_0 = sample(
            guided(self.predict, scale, negative, interval, without),
            self.scheduler,
            noise.to(device),
            ask,
            config.prediction,
            num_inference_steps or config.num_inference_steps,
            list(generators) if len(generators) > 1 else generators[0],
            on_step,
        )
        return (x_0 if self.vae is None else decode(self.vae, x_0)).clamp(-1, 1)

    def stream(
        self,
        prompt: str | Callable[[int], str],
        num_frames: int | None = None,
        generator: torch.Generator | None = None,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        window: int | None = None,
    ) -> Iterator[Tensor]:
        """One video of any length, made while it is taken: its next frames `[3, T, H, W]` float32 in [-1, 1].

        Memory does not grow with the length, see `streaming`.

        Args:
            prompt: what the video shows, or a function from the first frame of a block to what that block shows.
            generator: the noise of block k follows from its next number and k.
            window: finished frames that a block sees, rounded down to whole blocks, at least one; None: with the block
                itself as many as the model was trained on.

        Raises:
            UsageError: the denoiser is not causal, or does not take this size.
            ModelError: the codec decodes whole videos only.
        """
        plan = Plan.of(self, num_frames, height, width, window)
        scale, interval = self.guidance(guidance_scale, guidance_interval)
        how = Asking(prompt, negative_prompt, scale, interval, num_inference_steps)
        return stream(self, plan, how, generator or torch.Generator().manual_seed(torch.seed() % 2**63))

    def read_conditions(self, conditions: Mapping[str, Any], view: View, videos: int) -> dict[str, Tensor]:
        """What the denoiser is told of conditions, the same for so many videos; arguments as of `sample`."""
        own = conditions_of(self.denoiser)
        self._check_conditions(conditions)
        device = self._execution_device
        told = {}
        for name, value in conditions.items():
            if value is None:
                raise UsageError(f"The condition {name} has no value. Give it one, or leave it out.")
            values = own[name].read(value, view)[None].to(device)
            told[name] = own[name].encode(values, self._encoded).repeat_interleave(videos, 0)
        return told

    def condition_scales(self, scales: Mapping[str, float]) -> dict[str, float]:
        """The guidance scale of each condition of the model, its own where none is given."""
        self._check_conditions(scales)
        return {name: scales.get(name, own.guidance_scale) for name, own in conditions_of(self.denoiser).items()}

    def _check_conditions(self, names: Mapping[str, Any]) -> None:
        own = conditions_of(self.denoiser)
        if unknown := sorted(set(names) - set(own)):
            known = f"It has {', '.join(own)}." if own else "It has none: train one with model.conditions."
            raise UsageError(f"This model has no condition {' and no '.join(unknown)}. {known}")

    def _encoded(self, video: Tensor) -> Tensor:
        return video if self.vae is None else encode(self.vae, video).mean

    def guidance(self, scale: float | None, interval: Sequence[float] | None) -> tuple[float, tuple[float, float]]:
        """The guidance scale, and its lowest and highest timestep; the pipeline's own where None is given."""
        config: Any = self.config
        low, high = interval or config.guidance_interval or (0.0, 1.0)
        if not 0 <= low <= high <= 1:
            raise UsageError(f"guidance_interval is {low:g} to {high:g}. Give two rising numbers from 0 to 1.")
        whole = self.scheduler.config.num_train_timesteps
        return config.guidance_scale if scale is None else scale, (low * whole, high * whole)

    def predict(self, x_t: Tensor, t: Tensor, condition: dict[str, Any], **how: Any) -> Tensor:
        """The denoiser's prediction in its own precision; `how` reaches it as it is."""
        dtype = self.denoiser.dtype
        given = {name: v.to(dtype) if v.is_floating_point() else v for name, v in condition.items()}
        # what diffusers' caches keep is of one batch: with guidance it is twice as large as without
        caching = getattr(self.denoiser, "cache_context", None)
        with caching(f"batch of {len(x_t)}") if caching else nullcontext():
            return self.denoiser(x_t.to(dtype), t, **keywords(self.denoiser, given), **how, return_dict=False)[0]

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        negative_prompt: str = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        conditions: Mapping[str, Any] | None = None,
        condition_scales: Mapping[str, float] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> TextToVideoOutput | tuple[Any]:
        """Videos from text, in the manner of diffusers' video pipelines; sampled one by one.

        Args:
            generator: one for each video, or one from which the videos draw in turn.
            conditions, condition_scales: see `sample`.
            output_type: "pil": lists of images; "np": `[B, T, H, W, C]` in [0, 1]; "pt": `[B, T, C, H, W]` in [0, 1].
        """
        return self.videos(
            prompt,
            num_videos_per_prompt,
            generator,
            output_type,
            return_dict,
            negative_prompt=negative_prompt,
            num_frames=num_frames,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            conditions=conditions,
            condition_scales=condition_scales,
            fps=self.config["fps"],
        )

    def use_sampler(self, name: str) -> None:
        """Change the scheduler to another sampler of the same schedule, by name."""
        schedule = Schedule.from_scheduler(self.scheduler)
        self.scheduler = schedule.sampler(name, self.config["prediction"], clip=not self.is_latent)


def leave_on_disk(pipe: Any, folders: Mapping[str, Path], dtype: torch.dtype = torch.float32) -> None:
    """Has these frozen parts of a pipeline, component -> folder, out of memory, beside those that already are.

    Args:
        dtype: that they come back in, see `completed`.
    """
    pipe.frozen_folders, pipe.frozen_dtype = {**left_on_disk(pipe), **folders}, dtype
    pipe.register_modules(**dict.fromkeys(folders))


def left_on_disk(pipe: Any) -> dict[str, Path]:
    """The parts of a pipeline that are out of memory: component -> folder."""
    return getattr(pipe, "frozen_folders", {})


@contextmanager
def completed(pipe: Any) -> Iterator[None]:
    """Within, what was left on the disk is in memory, on the pipeline's device."""
    left, device = left_on_disk(pipe), pipe.device
    try:
        for name, folder in left.items():
            library, kind = _class_in(folder)
            part = getattr(import_module(library), kind).from_pretrained(
                folder, use_safetensors=True, dtype=pipe.frozen_dtype
            )
            pipe.register_modules(**{name: aligned(part).eval().requires_grad_(False).to(device)})
        yield
    finally:
        pipe.register_modules(**dict.fromkeys(left))


def save(pipe: Any, folder: Path) -> None:
    """Saves a pipeline as a folder that `from_pretrained` opens, whole even where parts are on the disk."""
    pipe.save_pretrained(folder, safe_serialization=True)
    index = folder / "model_index.json"
    parts = json.loads(index.read_text(encoding="utf-8"))
    for name, source in left_on_disk(pipe).items():
        shutil.copytree(source, folder / name, copy_function=link)
        parts[name] = list(_class_in(source))
    index.write_text(json.dumps(parts, indent=2) + "\n", encoding="utf-8")


def link(source: str, target: str) -> None:
    """The same file by a second name, which takes no room; a copy where the file system knows no links."""
    try:
        os.link(os.path.realpath(source), target)  # of a symbolic link, as in the Hub's cache, the file itself
    except OSError:
        shutil.copy2(source, target)


def _class_in(folder: Path) -> tuple[str, str]:
    """Library and class of the part saved in a folder; the pipeline around it knows best."""
    index = folder.parent / "model_index.json"
    library, kind = (json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}).get(
        folder.name, ("", "")
    )
    if library in ("diffusers", "transformers") or library.startswith("text2video."):
        return library, kind
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "_class_name" not in config:
        return "transformers", config["architectures"][0]
    return OURS if config["_class_name"] == OURS[1] else ("diffusers", config["_class_name"])
