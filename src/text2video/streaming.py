"""Videos of any length from a causal transformer: one block of frames after another, at the memory of a few.

Each block is denoised from noise of its own and sees the finished blocks through `KeyValueCache`; then one more pass
with the clean block leaves what the next ones see of it. A codec that decodes in parts turns each block into frames at
once. Only the newest blocks are held: a minute takes the memory of a second.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .diffusion.guidance import guided, sample
from .diffusion.seeds import generator
from .errors import UsageError
from .models.codecs import Geometry, check_streams, decode_stream, geometry_of
from .models.kv_cache import Continued, KeyValueCache


@dataclass(frozen=True)
class Plan:
    """Which blocks a video is made of.

    Args:
        frames: of the video.
        clip: (frames, height, width) that the model was trained on, of what is denoised, in the video's own size.
        block: frames of a block, of what is denoised.
        window: finished blocks that a block sees.
        geometry: of the codec.
    """

    frames: int
    clip: tuple[int, int, int]
    block: int
    window: int
    geometry: Geometry | None

    @classmethod
    def of(cls, pipe: Any, frames: int | None, height: int | None, width: int | None, window: int | None) -> "Plan":
        """For a pipeline, whose own values stand for those that are None; `window` counts frames of the video.

        Raises:
            UsageError: its denoiser is not causal, or does not take this size.
            ModelError: its codec decodes whole videos only.
        """
        model, config = pipe.denoiser, pipe.config
        if not is_causal(model):
            raise UsageError(
                f"This model, a {type(model).__name__}, makes a video as a whole and cannot be streamed: for that, "
                "no frame may look ahead, and what is known of the frames before must fit into a cache. Train one with "
                "--kind transformer --time_attention causal --forcing independent."
            )
        if model.is_cache_enabled:
            raise UsageError(
                "A cache of diffusers leaves out layers, whose keys and values a stream then lacks. Call "
                f"pipe.{pipe.denoiser_name}.disable_cache() first."
            )
        shape = (config["num_frames"], height or config["height"], width or config["width"])
        pipe.rules.check(shape)
        geometry = None if pipe.vae is None else geometry_of(pipe.vae)
        if geometry:
            check_streams(geometry)
            shape = geometry.latent_shape(shape)
        block = block_of(model)
        seen = shape[0] - block if window is None else window // (geometry.strides[0] if geometry else 1)
        return cls(frames or config["num_frames"], shape, block, max(1, seen // block), geometry)

    @property
    def blocks(self) -> int:
        """How many there are; of the last one not all frames may be needed."""
        stride, alone = (self.geometry.strides[0], int(self.geometry.first_alone)) if self.geometry else (1, 0)
        return -(-(alone + -(-(self.frames - alone) // stride)) // self.block)

    def first_frame(self, block: int) -> int:
        """Of the video, of what a block shows."""
        first = block * self.block
        if self.geometry is None or first == 0:
            return first
        return (first - int(self.geometry.first_alone)) * self.geometry.strides[0] + int(self.geometry.first_alone)


@dataclass(frozen=True)
class Asking:
    """What the video is to show, and how closely; the interval in timesteps."""

    prompt: str | Callable[[int], str]
    negative_prompt: str
    scale: float
    interval: tuple[float, float]
    steps: int | None


def is_causal(model: Any) -> bool:
    """Whether a denoiser is a causal transformer."""
    return model.config.get("time_attention") == "causal"


def block_of(model: Any) -> int:
    """Frames that a causal transformer denoises at a time."""
    return model.config["causal_block"] * model.strides[0]


def stream(pipe: Any, plan: Plan, asking: Asking, source: torch.Generator) -> Iterator[Tensor]:
    """See `TextToVideoPipeline.stream`. The sampler is the pipeline's present one."""
    seed = int(torch.randint(2**62, (), generator=source, device=source.device))
    return _frames(pipe, _denoised(pipe, plan, asking, seed, copy.deepcopy(pipe.scheduler)), plan.frames)


@torch.no_grad()
def _frames(pipe: Any, blocks: Iterator[Tensor], left: int) -> Iterator[Tensor]:
    for video in blocks if pipe.vae is None else decode_stream(pipe.vae, blocks):
        yield video[0, :, :left].clamp(-1, 1)
        left -= video.shape[2]


@torch.no_grad()
def _denoised(pipe: Any, plan: Plan, asking: Asking, seed: int, scheduler: Any) -> Iterator[Tensor]:
    """Clean blocks `[1, C, t, h, w]`."""
    model, device = pipe.denoiser, pipe._execution_device
    cache = KeyValueCache(plan.window, rows=1 if asking.scale == 1.0 else 2)
    shown, negative, ask = None, None, {}
    for block in range(plan.blocks):
        prompt = asking.prompt(plan.first_frame(block)) if callable(asking.prompt) else asking.prompt
        if prompt != shown:
            negative, ask = pipe.encode_prompts([prompt], asking.negative_prompt, asking.scale, {})
            shown = prompt
        draws = generator(seed, block)
        noise = torch.randn(1, model.config["in_channels"], plan.block, *plan.clip[1:], generator=draws).to(device)
        predict = partial(pipe.predict, layout=Continued.of(model.grid(noise), cache))
        x_0 = sample(
            guided(predict, asking.scale, negative, asking.interval),
            scheduler,
            noise,
            ask,
            pipe.config["prediction"],
            asking.steps or pipe.config["num_inference_steps"],
            draws,
            shape=plan.clip,
        )
        if pipe.vae is None:
            x_0 = x_0.clamp(-1, 1)
        whole = ask if negative is None else {name: torch.cat([negative[name], ask[name]]) for name in ask}
        predict(x_0.expand(cache.rows, -1, -1, -1, -1), torch.zeros(cache.rows, device=device), whole)
        cache.finish()
        yield x_0
