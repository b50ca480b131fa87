"""The options that say which model answers, the same for every verb that asks one, and what such a verb says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ..errors import UsageError
from .terminal import say

if TYPE_CHECKING:
    from ..data.answers import Answerer
    from ..data.captions import Outcome

_SHOWN = 20  # questions without an answer that are named


@Parameter(name="*")
@dataclass(frozen=True)
class Answering:
    """Which model answers, and how it is asked.

    Args:
        model: A model's folder or name; with an endpoint, the name it has there.
        endpoint: A server that speaks OpenAI's API, such as http://127.0.0.1:8000/v1; without, the model runs here.
        api_key_env: Environment variable with the endpoint's key.
        max_tokens: Longest answer in tokens, thoughts included.
        temperature: Of an endpoint: 0 always takes the likeliest word.
        request_timeout: Seconds for one try at an endpoint.
        retries: Further tries at an endpoint.
        concurrency: Requests at the same time at an endpoint.
        batch_size: Questions answered together by a model that runs here.
        device: auto, cpu, cuda or mps, for a model that runs here.
        dtype: float32, bfloat16 or float16, for a model that runs here.
    """

    model: str
    endpoint: str | None = None
    api_key_env: str | None = None
    max_tokens: PositiveInt | None = None
    temperature: NonNegativeFloat | None = None
    request_timeout: PositiveFloat = 120.0
    retries: NonNegativeInt = 4
    concurrency: PositiveInt = 4
    batch_size: PositiveInt = 1
    device: str = "auto"
    dtype: str = "float32"

    def open(self, sees: bool) -> "Answerer":
        """The model; `sees`: it is shown frames."""
        if self.endpoint is not None:
            from ..data.endpoint import Endpoint

            return Endpoint(
                self.endpoint,
                self.model,
                api_key_env=self.api_key_env,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                timeout=self.request_timeout,
                retries=self.retries,
                concurrency=self.concurrency,
            )
        if self.api_key_env is not None or self.temperature is not None:
            raise UsageError("--api_key_env and --temperature are for an endpoint. Name it by --endpoint.")
        import torch

        from ..families.devices import choose_device, choose_dtype
        from ..models.captioner import MAX_TOKENS, Captioner

        return Captioner(
            self.model,
            sees=sees,
            device=choose_device(self.device),
            dtype=choose_dtype(self.dtype) or torch.float32,
            batch_size=self.batch_size,
            max_tokens=self.max_tokens or MAX_TOKENS,
        )


@Parameter(name="*")
@dataclass(frozen=True)
class Polishing:
    """Prompts in richer words before a video is made of them, for models that were trained on long captions.

    Args:
        polish: A language model's folder or name, which rewrites each prompt; with an endpoint, the name it has there.
        polish_endpoint: A server that speaks OpenAI's API; without, the language model runs here.
        polish_key_env: Environment variable with that server's key.
    """

    polish: str | None = None
    polish_endpoint: str | None = None
    polish_key_env: str | None = None

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        """The prompts as they are, or as the language model puts them, which is said."""
        if self.polish is None:
            if self.polish_endpoint or self.polish_key_env:
                raise UsageError("--polish_endpoint needs --polish with the name of the language model there.")
            return list(prompts)
        from ..data.captions import polish_prompts

        answerer = Answering(self.polish, self.polish_endpoint, self.polish_key_env).open(sees=False)
        polished = polish_prompts(prompts, answerer)
        for text in polished:
            say(f"polished: {text}")
        return polished


AS_GIVEN = Polishing()


def read_template(text_or_file: str) -> str:
    """A template as it is given, or from the text file of that name."""
    if not text_or_file.lower().endswith(".txt"):
        return text_or_file
    try:
        return Path(text_or_file).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The template {text_or_file} cannot be read ({error}). Give a UTF-8 text file.") from None


def show(outcome: "Outcome", out: Path) -> None:
    """Says what was made, and what has no answer and why."""
    for name, reason in outcome.failed[:_SHOWN]:
        say(f"no answer for {name}: {reason}")
    if len(outcome.failed) > _SHOWN:
        say(f"... and {len(outcome.failed) - _SHOWN} more without an answer")
    if outcome.failed:
        say("run it again to ask about these once more")
    answered = outcome.asked - len(outcome.failed)
    manifest = outcome.manifest
    say(f"{answered} new answers; {len(manifest)} clips with captions, {len(manifest.left_out)} left out, in {out}")
