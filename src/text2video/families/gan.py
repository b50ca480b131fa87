"""Generators trained against a discriminator as a family: text in, a video out in one step."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ..errors import UsageError
from ..models.gan import GENERATORS, Discriminator
from ..models.layers import mean_token
from ..models.text import BuiltinTextModel, TextEncoder
from ..pipelines import aligned
from ..sizes import Bucket, ShapeRules
from .base import AS_USUAL, Defaults, Opening
from .devices import placed
from .imports import construct
from .own import WithoutLevels, opened

if TYPE_CHECKING:
    from ..config import RunConfig

ONE_STEP = "This model makes a video in one step, without noise levels."


class VideoGANPipeline(DiffusionPipeline):
    """Text -> videos in one step.

    Args:
        generator: a `VideoGenerator`.
        text_encoder, tokenizer: see `TextEncoder`.
        fps: of the videos it was trained on.
    """

    scheduler = None

    def __init__(self, generator: Any, text_encoder: Any, tokenizer: Any, fps: float = 8.0):
        super().__init__()
        self.register_modules(generator=generator, text_encoder=text_encoder, tokenizer=tokenizer)
        self.register_to_config(fps=fps)
        self.discriminator: nn.Module | None = None  # that it is trained against; never saved with it

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[str], generators: Sequence[torch.Generator], num_frames: int | None = None
    ) -> Tensor:
        """One video for each prompt and generator of noise, `[B, 3, T, H, W]` float32 in [-1, 1].

        Raises:
            UsageError: it makes videos of another number of frames.
        """
        model = self.generator
        frames = num_frames or model.config["num_frames"]
        model.rules.check((frames, model.config["height"], model.config["width"]))
        size = model.noise_size(frames)
        noise = torch.stack([torch.randn(size, generator=g, device=g.device) for g in generators])
        caption = read_captions(TextEncoder(self.tokenizer, self.text_encoder), prompts)
        return model(noise.to(self.device, model.dtype), caption.to(model.dtype), frames).sample.float()


class VideoGAN(WithoutLevels):
    """A generator and the built-in text encoder. What trains against them is not kept."""

    name = "gan"
    denoiser_names = ("generator",)
    no_levels = ONE_STEP

    def create(
        self, config: "RunConfig", captions: Iterable[str], shape: Bucket, tokenizer: Any = None
    ) -> VideoGANPipeline:
        """An untrained one for videos of `shape`, with its discriminator.

        The tokenizer is the one that is given, or made from the run's captions.
        """
        text = config.text
        if tokenizer is None:
            found = TextEncoder.builtin(captions, text.text_width, text.text_layers, text.vocab_size, text.max_tokens)
            tokenizer, encoder = found.tokenizer, found.model
        else:
            encoder = BuiltinTextModel(len(tokenizer), text.text_width, text.text_layers, text.max_tokens)
        generator, discriminator = self.networks(config, shape)
        pipe = VideoGANPipeline(generator, encoder, tokenizer, float(config.data.fps or 8))
        pipe.discriminator = discriminator
        return pipe

    @staticmethod
    def networks(config: "RunConfig", shape: Bucket) -> tuple[Any, Discriminator]:
        """An untrained generator of a kind, and what it is trained against."""
        kind, width = config.model.kind, config.text.text_width
        generator = construct(GENERATORS[kind], width, *shape, **config.model.model_args)
        return generator, Discriminator(kind, width, generator.config["channels"])

    def open(
        self,
        path: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        trainable_only: bool = False,
        opening: Opening = AS_USUAL,
    ) -> VideoGANPipeline:
        """The pipeline in a folder."""
        pipe = opened(VideoGANPipeline, path, dtype, opening, use_safetensors=True)
        for part in (pipe.generator, pipe.text_encoder):
            aligned(part).eval()
        return placed(pipe, device, opening.offload)

    def rules(self, pipe: Any) -> ShapeRules:
        """The videos that it can make."""
        return pipe.generator.rules

    def defaults(self, pipe: Any) -> Defaults:
        """As it was trained: one step, and no guidance."""
        own = pipe.generator.config
        return Defaults(own["num_frames"], own["height"], own["width"], pipe.config["fps"], 1, 1.0)

    def denoisers(self, pipe: Any) -> dict[str, nn.Module]:
        """The generator."""
        return {"generator": pipe.generator}

    def trainable(self, pipe: Any) -> dict[str, nn.Module]:
        """The generator, the text encoder, and the discriminator that they are trained against."""
        parts = {"generator": pipe.generator, "text_encoder": pipe.text_encoder}
        return parts | ({} if pipe.discriminator is None else {"discriminator": pipe.discriminator})

    def encode_text(self, pipe: Any, modules: dict[str, nn.Module], captions: Sequence[str]) -> dict[str, Tensor]:
        """Captions -> a vector `caption` for each, `[B, D]`."""
        reader = TextEncoder(pipe.tokenizer, modules["text_encoder"], trainable=True)
        return {"caption": read_captions(reader, captions)}

    def predict(
        self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]
    ) -> Any:
        """What the generator makes of noise; or, with captions to `judge`, the discriminator's judgements of videos.

        The generator's noise is the first of the video's: there are more numbers in it than are needed.
        """
        if "judge" in condition:
            return modules["discriminator"](x_t, t, condition["judge"])
        frames = x_t.shape[2]
        noise = x_t.flatten(1)[:, : pipe.generator.noise_size(frames)]
        return modules["generator"](noise, condition["caption"], frames)

    def sample(
        self,
        pipe: Any,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        on_step: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> Tensor:
        """See `VideoGANPipeline`.

        Raises:
            UsageError: it cannot do what is asked for.
        """
        usual = {"num_inference_steps": 1, "guidance_scale": 1.0, "negative_prompt": "", "guidance_interval": None}
        usual |= dict.fromkeys(("image", "last_image", "video", "strength"))
        if wrong := [name for name, value in usual.items() if settings.get(name, value) != value]:
            raise UsageError(
                f"{ONE_STEP} It needs text alone: leave out {' and '.join(f'--{name}' for name in wrong)}."
            )
        own = pipe.generator.config
        shape = [settings.get(name) or own[name] for name in ("num_frames", "height", "width")]
        pipe.generator.rules.check(shape)
        videos = pipe(prompts, generators, shape[0])
        if on_step:
            on_step(1, 1)
        return videos


def read_captions(reader: TextEncoder, captions: Sequence[str]) -> Tensor:
    """A vector for each caption, `[B, D]`: its tokens' sum over the root of their number, so that words, which differ,
    are not lost among words that all captions have."""
    found = reader(captions)
    return mean_token(found.hidden_states, found.mask) * found.mask.sum(1, keepdim=True).sqrt()
