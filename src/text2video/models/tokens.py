"""How a text encoder reads a caption, by its tokenizer alone: how many tokens, how many unknown, in which scripts."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from .text import no_encoder, text_source, tokenizer_of, train_tokenizer

# What the encoders were trained on, by Unicode's names of scripts; any script for those not named.
_SCRIPTS = {"clip": ("LATIN",), "clip_text_model": ("LATIN",), "t5": ("LATIN",)}


class Reading(NamedTuple):
    """A tokenizer's view of captions. `tokens` gives (count, unknown) of one; None for `scripts` is any."""

    tokens: Callable[[str], tuple[int, int]]
    max_tokens: int
    scripts: tuple[str, ...] | None


def reading(name: str | Path, captions: Iterable[str], max_tokens: int = 77) -> Reading:
    """How the text encoder `name` reads captions: builtin, clip, t5, a Hugging Face name, or a folder.

    Args:
        captions: of the data set: the built-in encoder's tokenizer is made from them.
        max_tokens: that the built-in encoder reads; a pretrained one knows its own limit.

    Raises:
        ModelError: there is no such tokenizer on this machine.
    """
    if str(name) == "builtin":
        tokenizer, scripts = train_tokenizer(captions, max_tokens=max_tokens), None
    else:
        tokenizer, scripts = _pretrained(name)
    unknown = tokenizer.unk_token_id
    ends = tokenizer.eos_token_id  # CLIP's unknown token is its end token, too
    limit = min(tokenizer.model_max_length, 512)

    def tokens(caption: str) -> tuple[int, int]:
        ids = tokenizer(caption, truncation=False, verbose=False).input_ids
        return len(ids), 0 if unknown in (None, ends) else sum(id == unknown for id in ids)

    return Reading(tokens, limit, scripts)


def _pretrained(name: str | Path) -> tuple[Any, tuple[str, ...] | None]:
    from transformers import AutoConfig, AutoTokenizer

    folder = Path(name)
    encoder = folder / "text_encoder"
    if encoder.is_dir() and (folder / "tokenizer").is_dir():  # a finished model
        config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
        return AutoTokenizer.from_pretrained(folder / "tokenizer"), _SCRIPTS.get(config.get("model_type", ""))
    source = text_source(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_of(source))
        return tokenizer, _SCRIPTS.get(AutoConfig.from_pretrained(source).model_type)
    except (OSError, ValueError) as error:
        raise no_encoder(source, error) from None
