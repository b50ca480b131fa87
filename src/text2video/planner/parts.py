"""Parts of a model on the meta device, built from configurations alone: no weights are read."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from ..errors import ModelError
from ..models.text import BuiltinTextModel, builtin_in, text_source, text_width
from ..sections import TextConfig
from .tracing import META


@dataclass
class Reader:
    """A new run's text encoder.

    Args:
        model: it.
        width: of its embeddings.
        tokens: of the longest caption.
        learns: whether it is trained with the model.
    """

    model: nn.Module
    width: int
    tokens: int
    learns: bool

    @classmethod
    def of(cls, text: TextConfig) -> "Reader":
        """The one that a configuration means.

        Raises:
            ModelError: it is not on this machine.
        """
        if text.text_encoder == "builtin":
            model = BuiltinTextModel(text.vocab_size, text.text_width, text.text_layers, text.max_tokens)
            return cls(model, text.text_width, text.max_tokens, True)
        if folder := builtin_in(text.text_encoder):
            built: Any = on_meta(folder, BuiltinTextModel.__module__, BuiltinTextModel.__name__)
            return cls(built, built.config.width, built.config.max_tokens, not text.frozen)
        config = AutoConfig.from_pretrained(text_source(text.text_encoder))
        return cls(_transformers(config), text_width(config), text.max_tokens, False)

    def words(self, batch: int) -> tuple[Tensor, Tensor]:
        """Embeddings `[batch, tokens, width]` of long captions and their mask; the built-in one reads in every step."""
        mask = torch.ones(batch, self.tokens, dtype=torch.bool)
        if isinstance(self.model, BuiltinTextModel):
            return self.model(torch.zeros(batch, self.tokens, dtype=torch.long), mask), mask
        return torch.empty(batch, self.tokens, self.width), mask


def on_meta(folder: Path, library: str, kind: str) -> Any:
    """A part of a model folder, a module without its weights; what is no module is opened as it is.

    Raises:
        ModelError: its config.json cannot be read, or names a class of another library.
    """
    import transformers

    if library not in ("diffusers", "transformers") and not library.startswith("text2video."):
        raise ModelError(f"The part in {str(folder)!r} is of {library}, a library that is not known here.")
    found = getattr(import_module(library), kind)
    if not issubclass(found, nn.Module):
        return found.from_pretrained(folder, local_files_only=True)
    with META:
        if issubclass(found, transformers.PreTrainedModel):
            return _transformers(AutoConfig.from_pretrained(folder), kind).eval()
        part: Any = found
        return part.from_config(part.load_config(folder)).eval().requires_grad_(False)


def _transformers(config: Any, kind: str = "") -> nn.Module:
    import transformers

    kinds = {"clip": "CLIPTextModel", "t5": "T5EncoderModel", "umt5": "UMT5EncoderModel"}
    found = getattr(transformers, kind or kinds.get(config.model_type, "CLIPTextModel"))
    inner = config.text_config if config.model_type == "clip" and not kind else config
    return found(inner).requires_grad_(False)
