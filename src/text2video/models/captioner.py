"""Image-text models of transformers that describe frames, and language models that rewrite text, in this process.

Weights are read from safetensors and no code of a model's own is run: a model that needs it is served elsewhere and
asked through its endpoint.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from ..errors import ModelError

MAX_TOKENS = 512


class Captioner:
    """A model that answers questions about frames, or without frames.

    A model with a chat template sees all frames, in order. One without, such as BLIP, describes one picture, the frame
    in the middle, and sees no prompt.

    Args:
        name: a folder, or a name on the Hugging Face hub.
        sees: whether it is shown frames; without, it is a plain language model.
        device: where it runs.
        dtype: of its weights.
        batch_size: questions answered together.
        max_tokens: of an answer, thoughts included.

    Raises:
        ModelError: it is not there, is no such model, or needs code of its own.
    """

    concurrency = 1

    def __init__(
        self,
        name: str | Path,
        *,
        sees: bool = True,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 1,
        max_tokens: int = MAX_TOKENS,
    ):
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

        model_class, reader_class = (
            (AutoModelForImageTextToText, AutoProcessor) if sees else (AutoModelForCausalLM, AutoTokenizer)
        )
        try:
            model = model_class.from_pretrained(name, dtype=dtype, use_safetensors=True, trust_remote_code=False)
            self.reader: Any = reader_class.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            raise ModelError(_refusal(str(name), error, sees)) from None
        self.model: Any = model.eval().requires_grad_(False)
        self.model.to(device)
        self.tokenizer = getattr(self.reader, "tokenizer", self.reader)
        self.tokenizer.padding_side = "left"  # answers begin where questions end
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.sees, self.chats = sees, bool(getattr(self.reader, "chat_template", None))
        self.batch_size = batch_size
        self.about = {"model": str(name)}
        self.settings = {"max_tokens": max_tokens}

    @torch.no_grad()
    def answer(self, questions: Sequence[tuple[str, np.ndarray | None]]) -> list[str]:
        """The model's own words to each (prompt, frames uint8 `[T, H, W, 3]`), always its likeliest."""
        inputs = self._inputs(questions).to(self.model.device)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        tokens = self.model.generate(**inputs, max_new_tokens=self.settings["max_tokens"], do_sample=False)
        # a decoder repeats the question before its answer; an encoder-decoder, and a plain captioner, do not
        asked = 0 if self.model.config.is_encoder_decoder or "input_ids" not in inputs else inputs["input_ids"].shape[1]
        return self.tokenizer.batch_decode(tokens[:, asked:], skip_special_tokens=True)

    def close(self) -> None:
        """Nothing is under way between two calls."""

    def _inputs(self, questions: Sequence[tuple[str, np.ndarray | None]]) -> Any:
        if not self.chats:
            if not self.sees:
                return self.tokenizer([prompt for prompt, _ in questions], padding=True, return_tensors="pt")
            middles = [frames[len(frames) // 2] for _, frames in questions if frames is not None]
            return self.reader(images=_pictures(middles), return_tensors="pt")
        chats = [[{"role": "user", "content": self._content(prompt, frames)}] for prompt, frames in questions]
        padded = {"processor_kwargs": {"padding": True}} if self.sees else {"padding": True}
        return self.reader.apply_chat_template(
            chats, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt", **padded
        )

    def _content(self, prompt: str, frames: np.ndarray | None) -> Any:
        if not self.sees:
            return prompt
        pictures = [{"type": "image", "image": picture} for picture in _pictures(() if frames is None else frames)]
        return [*pictures, {"type": "text", "text": prompt}]


def _pictures(frames: Sequence[np.ndarray] | np.ndarray) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(frame) for frame in frames]


def _refusal(name: str, error: Exception, sees: bool) -> str:
    words = str(error)
    if "trust_remote_code" in words or "does not recognize this architecture" in words:
        return (
            f"The model {name!r} needs code of its own, and such code is not run here. "
            "Serve it, with vLLM or Ollama say, and give --endpoint http://127.0.0.1:8000/v1 --model NAME."
        )
    kind = "image-text model" if sees else "language model"
    return (
        f"{name!r} cannot be loaded as a {kind} of transformers ({words.splitlines()[0] if words else error!r}). "
        f"Give a folder with its weights in safetensors, fetch it with `hf download {name}`, or use --endpoint."
    )
