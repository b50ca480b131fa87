"""An autoregressive model over the tokens of a video tokenizer as a family, from scratch or from a folder."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models.autoregressive import AutoregressiveTransformer
from ..models.codecs import Latents
from ..models.video_tokenizer import open_tokenizer
from ..sizes import Bucket
from ..text_pipelines import aligned
from .autoregressive_pipeline import AutoregressivePipeline
from .base import AS_USUAL, Defaults, Opening
from .devices import placed
from .imports import construct
from .native import NativeFamily, arguments, text_parts
from .own import WithoutLevels, opened

if TYPE_CHECKING:
    from ..config import RunConfig

NO_LEVELS = "An autoregressive model draws tokens and denoises nothing: it has no noise levels and no sampler."


class Autoregressive(WithoutLevels, NativeFamily):
    """`AutoregressiveTransformer` with a text encoder as of `NativeFamily`. The tokenizer of video stays as it is."""

    name = "autoregressive"
    options = frozenset({"temperature", "top_k", "top_p"})
    no_levels = NO_LEVELS
    denoiser_names = ("transformer",)

    def create(
        self,
        config: "RunConfig",
        captions: Iterable[str],
        shape: Bucket,
        tokenizer: Any = None,
        parts: Path | None = None,
        device: str = "cpu",
    ) -> AutoregressivePipeline:
        """An untrained pipeline for a run, over the tokens of `config.model.codec`.

        The tokenizer of video comes from the folder `parts` where one is given; other arguments are as of
        `NativeFamily`.
        """
        video_tokenizer = aligned(open_tokenizer(parts / "video_tokenizer" if parts else tokenizer_folder(config)))
        tokenizer, text_encoder, width = text_parts(config.text, captions, tokenizer, None)
        sizes = {"vocab_size": video_tokenizer.vocab_size, "cross_attention_dim": width} | arguments(config.model)
        with torch.device(device):
            transformer = construct(AutoregressiveTransformer, **sizes)
        preview = config.preview
        return AutoregressivePipeline(
            transformer=transformer,
            video_tokenizer=video_tokenizer,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            num_frames=shape.frames,
            height=shape.height,
            width=shape.width,
            fps=float(config.data.fps or 8),
            guidance_scale=preview.guidance_scale,
            temperature=preview.temperature,
            top_k=preview.top_k,
            top_p=preview.top_p,
        )

    def open(
        self,
        path: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        trainable_only: bool = False,
        opening: Opening = AS_USUAL,
    ) -> Any:
        """The pipeline in a folder; its tokenizer of video always comes along."""
        pipe = opened(AutoregressivePipeline, path, dtype, opening)
        pipe.video_tokenizer.requires_grad_(False)
        return placed(pipe, device, opening.offload)

    def defaults(self, pipe: Any) -> Defaults:
        """As it was trained."""
        own = pipe.config
        return Defaults(own["num_frames"], own["height"], own["width"], own["fps"], None, own["guidance_scale"])

    def encode_video(self, pipe: Any, video: Tensor) -> Latents:
        """Tokens `[B, 1, t, h, w]`."""
        return Latents(pipe.video_tokenizer.encode(video.to(pipe.video_tokenizer.dtype))[:, None])

    def conditions(
        self, pipe: Any, items: Mapping[str, Any], x_0: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """It is told nothing but the caption."""
        return {}

    def predict(
        self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]
    ) -> Tensor:
        """The logits `[B, t, h, w, vocab_size]` of tokens `[B, 1, t, h, w]`, each from those before it."""
        return modules["transformer"](x_t[:, 0], **condition)

    def sample(
        self,
        pipe: Any,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        on_step: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> Tensor:
        """See `AutoregressivePipeline.sample`."""
        return pipe.sample(prompts, generators, on_step=on_step, **of_tokens(settings))

    def stream(
        self, pipe: Any, prompt: str, generator: torch.Generator, window: int | None = None, **settings: Any
    ) -> Iterator[Tensor]:
        """See `AutoregressivePipeline.stream`."""
        return pipe.stream(prompt, generator, window=window, **of_tokens(settings))


def tokenizer_folder(config: "RunConfig") -> Path:
    """The folder of the tokenizer that a run is over.

    Raises:
        UsageError: none is named.
    """
    if config.model.codec is None:
        raise UsageError(
            "An autoregressive model is trained over the tokens of a video tokenizer. Train one by `text2video train "
            "--kind tokenizer`, and name its folder by --codec RUN/final/video_tokenizer."
        )
    return config.model.codec


def of_tokens(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that are the file's alone.

    Raises:
        UsageError: something is asked for that only diffusion has.
    """
    diffusion = ("num_inference_steps", "guidance_interval")
    if given := [name for name in diffusion if settings.get(name) is not None]:
        raise UsageError(f"{NO_LEVELS} Leave out {' and '.join(f'--{name}' for name in given)}.")
    return {name: value for name, value in settings.items() if name not in (*diffusion, "fps")}
