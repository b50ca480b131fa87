"""Prompts -> videos -> files: the one sampling path of training previews, command line, evaluation and server.

A video is a function of model, prompt, seed and settings alone. Video k of a request has the seed `seed + k`, its own
generator on the CPU, and is sampled alone, so that neither its neighbours nor the device's generator matter.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import video
from .data.clips import write_file
from .diffusion.schedules import sampler_name
from .errors import UsageError
from .families.base import Conditioned, Defaults, Family, Streams


@dataclass(frozen=True)
class Settings:
    """How videos are made; None means the model's own default.

    Args:
        image, last_image: files with the first and the last frame, of models that take them.
        video: file of the video to start from, and `strength`, from 0 to 1, how much of it is made anew.
        options: settings that only some families of models have, by name.
        conditions: of models that were trained with conditions: name -> file or value; see `models.conditions`.
        condition_scales: name -> how closely to follow it; 1 is as learned.
    """

    negative_prompt: str | None = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_interval: Sequence[float] | None = None
    scheduler: str | None = None
    image: Path | None = None
    last_image: Path | None = None
    video: Path | None = None
    strength: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    conditions: Mapping[str, Any] = field(default_factory=dict)
    condition_scales: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    num_videos_per_prompt: int = 1


@dataclass(frozen=True)
class Recipe:
    """Everything that makes one video."""

    prompt: str
    seed: int
    settings: Settings  # as used: nothing is left to the model's defaults
    model: str

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.settings.fps or 8.0

    def metadata(self) -> dict[str, Any]:
        """Prompt, seed, model and settings, as stored with the video."""
        own = {k: v for k, v in asdict(self.settings).items() if k not in ("seed", "num_videos_per_prompt")}
        files = ("image", "last_image", "video")
        settings: dict[str, Any] = {k: str(v) if k in files else v for k, v in own.items() if v is not None and v != {}}
        if told := settings.get("conditions"):
            settings["conditions"] = {name: _written(value) for name, value in told.items()}
        return {"prompt": self.prompt, "seed": self.seed, "model": self.model, **settings}


@dataclass(frozen=True)
class Generated(Recipe):
    """One finished video and everything that made it."""

    frames: np.ndarray  # uint8 [T, H, W, 3]


@dataclass(frozen=True)
class Streamed(Recipe):
    """One video that is made while its frames are taken, once."""

    frames: Iterator[np.ndarray]  # uint8 [H, W, 3]
    window: int | None

    def metadata(self) -> dict[str, Any]:
        """As of every video, and that it was streamed."""
        return {**super().metadata(), "stream": True} | ({} if self.window is None else {"window": self.window})


def generate(
    family: Family,
    pipe: Any,
    prompts: Sequence[str],
    settings: Settings = Settings(),
    model: str = "",
    on_step: Callable[[int, int], None] | None = None,
    batch_size: int = 1,
) -> Iterator[Generated]:
    """The videos of each prompt, in order, as they are finished.

    Args:
        model: where the pipeline came from, for the metadata.
        on_step: called with (step, steps) after each sampling step.
        batch_size: videos sampled together; more than one may change them by about 1e-5.

    Raises:
        UsageError: no prompts, or a size or sampler that the model cannot do.
    """
    _check(family, pipe, prompts, settings)
    own = pipe.scheduler
    if settings.scheduler:
        family.use_sampler(pipe, settings.scheduler)
    try:
        yield from _generate(family, pipe, prompts, resolved(settings, family, pipe), model, on_step, batch_size)
    finally:
        pipe.scheduler = own


def stream(
    family: Family,
    pipe: Any,
    prompts: Sequence[str],
    settings: Settings = Settings(),
    model: str = "",
    on_frame: Callable[[int, int], None] | None = None,
    window: int | None = None,
) -> Iterator[Streamed]:
    """The videos of each prompt, in order, each of any length and made while its frames are taken.

    Args:
        model: as of `generate`.
        on_frame: called with (frames, of how many in all videos).
        window: how many frames before it a block sees; None: as many as the model was trained on.

    Raises:
        UsageError: no prompts, or a model that cannot do it.
        ModelError: its codec decodes whole videos only.
    """
    _check(family, pipe, prompts, settings)
    if not isinstance(family, Streams):
        raise UsageError(f"A {family.name} model makes its videos whole: leave out --stream.")
    if settings.image or settings.last_image or settings.video:
        raise UsageError("A stream begins with noise: leave out --image, --last_image and --video.")
    if settings.conditions or settings.condition_scales:
        raise UsageError("A stream follows its prompt alone: leave out --condition and --condition_scale, or --stream.")
    own = pipe.scheduler
    wanted = [prompt for prompt in prompts for _ in range(settings.num_videos_per_prompt)]
    for number, prompt in enumerate(wanted):
        seed = settings.seed + number
        if settings.scheduler:
            family.use_sampler(pipe, settings.scheduler)
        try:
            used = resolved(settings, family, pipe)
            asked = {field.name: getattr(used, field.name) for field in fields(Defaults)} | dict(settings.options)
            blocks = family.stream(pipe, prompt, torch.Generator().manual_seed(seed), window, **asked)
        finally:
            pipe.scheduler = own
        length = used.num_frames or 0
        frames = _counted(blocks, number * length, len(wanted) * length, on_frame)
        yield Streamed(prompt, seed, used, model, frames, window)


def _counted(
    blocks: Iterator[Tensor], done: int, total: int, report: Callable[[int, int], None] | None
) -> Iterator[np.ndarray]:
    for block in blocks:
        yield from to_uint8(block)
        done += block.shape[1]
        if report:
            report(done, total)


def _check(family: Family, pipe: Any, prompts: Sequence[str], settings: Settings) -> None:
    if "reconstruction" in family.tasks(pipe):
        raise UsageError(
            "This model is a video autoencoder or a tokenizer: it gives back videos and makes none from text. Train a "
            "model of its latents with `text2video train --codec FOLDER/vae`, or of its tokens with `--kind "
            "autoregressive --codec FOLDER/video_tokenizer`, and generate with that one."
        )
    if not prompts:
        raise UsageError("There are no prompts. Give --prompts, --prompt or --prompt_file.")
    if unknown := sorted(set(settings.options) - family.options):
        able = f"It has {', '.join(sorted(family.options))}." if family.options else "It has no options of its own."
        raise UsageError(f"A {family.name} model has no {', '.join(unknown)}. {able}")
    starts = [name for name in ("image", "last_image", "video") if getattr(settings, name)]
    if starts and family.tasks(pipe) == ("text-to-video",):
        task = "video-to-video" if settings.video else "image-to-video"
        options = " and ".join(f"--{name}" for name in starts)
        raise UsageError(f"This {family.name} model does not do {task}, only text-to-video: leave out {options}.")
    scales = {"guidance_scale": settings.guidance_scale or 1.0, **settings.condition_scales}
    if endless := [name for name, scale in scales.items() if not math.isfinite(scale)]:
        raise UsageError(f"{endless[0]} is {scales[endless[0]]}: how closely to follow it has to be a finite number.")
    named = {*settings.conditions, *settings.condition_scales}
    own = family.own_conditions(pipe) if named and isinstance(family, Conditioned) else {}
    if unknown := sorted(named - set(own)):
        known = f"It has {', '.join(own)}." if own else "It was trained with none."
        raise UsageError(f"This model has no condition {', '.join(unknown)}. {known}")
    if missing := sorted(set(settings.condition_scales) - set(settings.conditions)):
        raise UsageError(
            f"There is a scale for {', '.join(missing)}, which is not given: add --condition {missing[0]}=..., or "
            "leave out its --condition_scale."
        )


def _generate(
    family: Family,
    pipe: Any,
    prompts: Sequence[str],
    settings: Settings,
    model: str,
    on_step: Callable[[int, int], None] | None,
    batch_size: int,
) -> Iterator[Generated]:
    names = [field.name for field in fields(Defaults)]
    asked = {name: getattr(settings, name) for name in names} | given(settings) | dict(settings.options)
    if settings.conditions:
        asked |= {"conditions": settings.conditions, "condition_scales": settings.condition_scales}
    wanted = [prompt for prompt in prompts for _ in range(settings.num_videos_per_prompt)]
    for first in range(0, len(wanted), batch_size):
        some = wanted[first : first + batch_size]
        seeds = range(settings.seed + first, settings.seed + first + len(some))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        batch = family.sample(pipe, some, generators, on_step=on_step, **asked)
        for prompt, seed, clip in zip(some, seeds, batch, strict=True):
            yield Generated(prompt, seed, settings, model, to_uint8(clip))


def given(settings: Settings) -> dict[str, Any]:
    """The pictures that a request starts from, in the size of the video: see `Family.sample`.

    Raises:
        UsageError: one needs another that is missing.
        VideoError: a file cannot be read.
    """
    if settings.image and settings.video:
        raise UsageError("Both an image and a video are given to start from. Give one of --image and --video.")
    if settings.last_image and not settings.image:
        raise UsageError("--last_image needs the first frame too: give --image.")
    if settings.strength is not None and not (settings.video and 0 < settings.strength <= 1):
        raise UsageError("--strength says how much of a --video is made anew: give both, strength above 0 and up to 1.")
    fitted = partial(video.sample, height=settings.height, width=settings.width)
    found: dict[str, Any] = {}
    for name in ("image", "last_image"):
        if path := getattr(settings, name):
            found[name] = fitted(path, 1).frames[0]
    if settings.video:
        found["video"] = fitted(settings.video, settings.num_frames or 1, fps=settings.fps).frames
        found |= {} if settings.strength is None else {"strength": settings.strength}
    return found


def resolved(settings: Settings, family: Family, pipe: Any) -> Settings:
    """The settings with the model's own in place of those that were not given."""
    own = asdict(family.defaults(pipe))
    if pipe.scheduler is not None:
        own["scheduler"] = sampler_name(pipe.scheduler)
    missing = {name: value for name, value in own.items() if getattr(settings, name) is None}
    settings = replace(settings, **missing)
    interval = settings.guidance_interval
    return replace(settings, guidance_interval=list(interval) if interval else None)  # as JSON gives it back


def to_uint8(clip: Tensor) -> np.ndarray:
    """`[3, T, H, W]` in [-1, 1] -> uint8 `[T, H, W, 3]`."""
    levels = clip.float().clamp(-1, 1).add(1).mul(127.5).round()
    return levels.to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()


def save(
    result: Generated | Streamed, path: Path, save_gif: bool = False, save_frames: bool = False, visualize: bool = False
) -> list[Path]:
    """Write a video, its settings as JSON beside it, and what else is asked for; the paths written.

    Args:
        path: the MP4 (or GIF); the other files take its name.
        save_gif: also NAME.gif.
        save_frames: also NAME_frames/frame_0000.png ...
        visualize: also NAME_sheet.png, the frames side by side.

    Raises:
        UsageError: more than the MP4 is asked of a streamed video.
    """
    if not isinstance(result, Generated):
        if save_gif or save_frames or visualize or path.suffix != ".mp4":
            raise UsageError(
                "A streamed video is written as MP4 while it is made, and its frames are not kept. Leave out --stream, "
                "or ask for no GIF, frames or sheet."
            )
        video.write(path, result.frames, result.fps, metadata=result.metadata())
        return [path, _write_settings(path, result)]
    video.write(path, result.frames, result.fps, metadata=result.metadata())
    written = [path, _write_settings(path, result)]
    if save_gif and path.suffix != ".gif":
        written.append(path.with_suffix(".gif"))
        video.write(written[-1], result.frames, result.fps)
    if save_frames:
        written.append(path.with_name(f"{path.stem}_frames"))
        video.write_frames(written[-1], result.frames)
    if visualize:
        written.append(path.with_name(f"{path.stem}_sheet.png"))
        video.contact_sheet(written[-1], [result.frames])
    return written


def _written(value: Any) -> Any:
    """A condition's value as JSON can hold it; of one that is no file, name or number, what it was."""
    if isinstance(value, Path):
        return str(value)
    return value if isinstance(value, str | int | float | list) else f"a {type(value).__name__}"


def _write_settings(path: Path, result: Recipe) -> Path:
    beside = path.with_suffix(".json")
    write_file(beside, json.dumps(result.metadata(), indent=2, ensure_ascii=False) + "\n")
    return beside


def file_names(prompts: Sequence[str], suffix: str = ".mp4", longest: int = 60) -> list[str]:
    """A safe and distinct file name for each prompt: letters of any script and digits, joined by dashes.

    Slashes, dots and characters that some system refuses are left out, so a name never leaves its folder; duplicates
    are numbered.
    """
    taken: set[str] = set()
    names = []
    for prompt in prompts:
        words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", prompt).lower())
        stem = _cut("-".join(words), longest) or "video"
        # Windows keeps these names for devices.
        stem = f"{stem}-video" if re.fullmatch(r"con|prn|aux|nul|(com|lpt)\d", stem) else stem
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        names.append(name + suffix)
    return names


def _cut(text: str, longest: int) -> str:
    # File systems count bytes: 60 characters of some scripts are 240 bytes, and 255 is the limit.
    return text[:longest].encode()[:200].decode(errors="ignore").strip("-")
