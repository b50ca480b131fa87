"""Text -> video tokens -> videos, as a diffusers `DiffusionPipeline`: a folder that loads anywhere."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# The parts of a saved pipeline are found among imported modules only.
from ..models import autoregressive as autoregressive
from ..models import video_tokenizer as video_tokenizer
from ..models.autoregressive import check_drawing, draw
from ..models.kv_cache import TokenCache
from ..sizes import ShapeRules
from ..text_pipelines import TextPipeline, TextToVideoOutput


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn: the weight of the text (1: as it is), and as of `models.autoregressive.draw`."""

    guidance_scale: float
    temperature: float
    top_k: int | None
    top_p: float | None


class AutoregressivePipeline(TextPipeline):
    """Text -> videos by an autoregressive transformer over the tokens of a video tokenizer.

    Args:
        transformer: an `AutoregressiveTransformer`.
        video_tokenizer: a `VideoTokenizer`.
        text_encoder, tokenizer: of text, see `TextEncoder`.
        num_frames, height, width, fps: of the videos it was trained on, and what it makes when not told otherwise.
        guidance_scale, temperature, top_k, top_p: used when not told otherwise; see `sample`.
    """

    model_cpu_offload_seq = "text_encoder->transformer->video_tokenizer"
    scheduler = None  # nothing is denoised

    def __init__(
        self,
        transformer: Any,
        video_tokenizer: Any,
        text_encoder: Any,
        tokenizer: Any,
        num_frames: int = 17,
        height: int = 64,
        width: int = 64,
        fps: float = 8,
        guidance_scale: float = 3.0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ):
        super().__init__()
        self.register_modules(transformer=transformer, video_tokenizer=video_tokenizer)
        self.register_modules(text_encoder=text_encoder, tokenizer=tokenizer)
        self.register_to_config(num_frames=num_frames, height=height, width=width, fps=fps)
        self.register_to_config(guidance_scale=guidance_scale, temperature=temperature, top_k=top_k, top_p=top_p)

    @property
    def rules(self) -> ShapeRules:
        """The videos that it can take and make whole; a stream has any number of frames."""
        return self.video_tokenizer.rules

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        negative_prompt: str = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """One video for each prompt and generator, as a batch: `[B, 3, T, H, W]` float32 in [-1, 1].

        Args:
            negative_prompt: what logits are guided away from.
            guidance_scale: logits are `negative + scale * (positive - negative)`; 1 is no guidance.
            temperature, top_k, top_p: see `models.autoregressive.draw`.
            on_step: called with (tokens of a video, of how many).

        Raises:
            UsageError: the size or the number of frames is none that the tokenizer takes, or a value is out of range.
        """
        frames = num_frames or self.config["num_frames"]
        self.rules.check((frames, *self._size(height, width)))
        drawing = self._drawing(guidance_scale, temperature, top_k, top_p)
        made = self._tokens(
            prompts, generators, negative_prompt, frames, self._size(height, width), drawing, None, on_step
        )
        return self.video_tokenizer.decode(torch.cat(list(made), dim=1)).float().clamp(-1, 1)

    def stream(
        self,
        prompt: str,
        generator: torch.Generator,
        negative_prompt: str = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        window: int | None = None,
    ) -> Iterator[Tensor]:
        """One video of any length, made while it is taken: its next frames `[3, T, H, W]` float32 in [-1, 1].

        They are those of `sample`, and memory does not grow with the length.

        Args:
            window: frames before its own that a token sees, rounded down to whole frames of tokens; None: as many as
                in training.

        Raises:
            UsageError: as of `sample`.
        """
        size, length = self._size(height, width), num_frames or self.config["num_frames"]
        self.rules.check((1, *size))
        drawing = self._drawing(guidance_scale, temperature, top_k, top_p)
        return self._streamed(
            self._tokens([prompt], [generator], negative_prompt, length, size, drawing, window, None), length
        )

    @torch.no_grad()
    def _streamed(self, tokens: Iterator[Tensor], left: int) -> Iterator[Tensor]:
        for video in self.video_tokenizer.decode_stream(tokens):
            yield video[0, :, :left].float().clamp(-1, 1)
            left -= video.shape[2]

    @torch.no_grad()
    def _tokens(
        self,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        negative_prompt: str,
        frames: int,
        size: tuple[int, int],
        drawing: Drawing,
        window: int | None,
        on_step: Callable[[int, int], None] | None,
    ) -> Iterator[Tensor]:
        """The tokens `[B, 1, h, w]` of one frame of tokens after another."""
        model, scale = self.transformer, drawing.guidance_scale
        time, *space = self.video_tokenizer.strides
        sizes = (size[0] // space[0], size[1] // space[1])
        places, length = sizes[0] * sizes[1], 1 + -(-(frames - 1) // time)
        seen = (self.config["num_frames"] - 1 if window is None else window) // time
        negative, ask = self.encode_prompts(prompts, negative_prompt, scale, {})
        told = ask if negative is None else {name: torch.cat([negative[name], ask[name]]) for name in ask}
        text = model.read(told["encoder_hidden_states"], told["encoder_attention_mask"])
        passes = 1 if negative is None else 2
        cache = TokenCache(max(1, seen), places, passes * len(prompts))
        token = model.start(len(prompts))
        for frame in range(length):
            made = []
            for place in range(places):
                logits = model.next(token.repeat(passes, 1), frame, place, sizes, text, cache)
                if passes == 2:
                    low, high = logits.chunk(2)
                    logits = low + scale * (high - low)
                token = draw(logits, generators, drawing.temperature, drawing.top_k, drawing.top_p)
                made.append(token)
                if on_step:
                    on_step(frame * places + place + 1, length * places)
            yield torch.cat(made, dim=1).unflatten(1, (1, *sizes))

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        return height or self.config["height"], width or self.config["width"]

    def _drawing(
        self, guidance_scale: float | None, temperature: float | None, top_k: int | None, top_p: float | None
    ) -> Drawing:
        """The pipeline's own where None is given."""
        given = {"guidance_scale": guidance_scale, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        drawing = Drawing(**{name: self.config[name] if value is None else value for name, value in given.items()})
        check_drawing(drawing.temperature, drawing.top_k, drawing.top_p)
        return drawing

    def __call__(
        self,
        prompt: str | list[str],
        negative_prompt: str = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> TextToVideoOutput | tuple[Any]:
        """Videos from text, in the manner of diffusers' video pipelines; sampled one by one.

        Args:
            temperature, top_k, top_p: how tokens are drawn, see `sample`.
            generator, output_type: as of `TextToVideoPipeline`.
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
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
