"""Any server that speaks OpenAI's chat API, as vLLM, Ollama, llama.cpp and hosted ones do: frames go as JPEG data URIs.

https://platform.openai.com/docs/api-reference/chat
"""

import base64
import io
import os
from collections.abc import Sequence
from threading import Lock
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from ..errors import ModelError, UsageError
from .answers import NoAnswer, Question

DEAD = 10  # failures in a row, with no answer among them, after which nothing more is asked
_SETTINGS_WRONG = (401, 403, 404)  # no other clip would fare better


class Endpoint:
    """A model behind an endpoint.

    Too many requests (429), errors of the server (5xx), lost connections and timeouts are tried again, each time after
    a longer pause, or after the one that the server asks for.

    Args:
        url: up to and with its version, such as http://127.0.0.1:8000/v1.
        model: the name that the server knows it by.
        api_key_env: the environment variable that holds the key; None sends none. The key is kept in memory only.
        max_tokens: of an answer, thoughts included; None leaves it to the server.
        temperature: 0 always takes the likeliest word; None leaves it to the server.
        timeout: seconds for one try.
        retries: further tries.
        concurrency: requests at the same time.

    Raises:
        UsageError: the URL is none, or the variable is not set.
        ModelError: the `openai` package is missing.
    """

    batch_size = 1

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        timeout: float = 120.0,
        retries: int = 4,
        concurrency: int = 4,
    ):
        try:
            import openai
        except ImportError as error:
            raise ModelError(
                "An endpoint is asked through the openai package, which is not installed: "
                "pip install 'text2video[caption]'."
            ) from error
        self._public = without_credentials(url)
        key = "none"
        if api_key_env is not None and not (key := os.environ.get(api_key_env, "").strip()):
            raise UsageError(f"The environment variable {api_key_env} is to hold the endpoint's key, and is not set.")
        self._key = key
        self._openai = openai
        # a proxy for the wide world knows nothing of this machine's own servers
        own = (urlsplit(url).hostname or "") in ("localhost", "127.0.0.1", "::1")
        http = openai.DefaultHttpxClient(trust_env=not own)
        self._client = openai.OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=retries, http_client=http)
        self.about = {"model": model, "endpoint": self._public}
        self.settings: dict[str, Any] = {
            name: value
            for name, value in (("max_tokens", max_tokens), ("temperature", temperature))
            if value is not None
        }
        self.concurrency = concurrency
        self._lock, self._answered, self._failed = Lock(), False, 0

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """The model's own words.

        Raises:
            NoAnswer: this question has none: refused, cut off, or the server failed at every try.
            ModelError: no question will have one: there is no server, no such model, the key is wrong, or the server
                has failed ten times in a row.
        """
        return [self._ask(question) for question in questions]

    def close(self) -> None:
        """Ends requests that are under way."""
        self._client.close()

    def _ask(self, question: Question) -> str:
        pictures = [] if question.frames is None else [jpeg_uri(frame) for frame in question.frames]
        content: Any = [{"type": "image_url", "image_url": {"url": uri}} for uri in pictures]
        content += [{"type": "text", "text": question.prompt}]
        try:
            reply = self._client.chat.completions.create(
                model=self.about["model"],
                # plain text for models that know nothing else
                messages=[{"role": "user", "content": content if pictures else question.prompt}],
                **self.settings,
            )
            text = _text(reply)
        except self._openai.OpenAIError as error:
            raise self._failure(error) from None  # its request holds the key
        except (ValueError, RuntimeError) as error:  # no JSON; or closed while it was tried again
            raise self._failure(error) from None
        with self._lock:
            self._answered, self._failed = True, 0
        return text

    def _failure(self, error: Exception) -> NoAnswer | ModelError:
        """Whether this one question failed, or the endpoint as a whole."""
        status = getattr(error, "status_code", None)
        reason = self._words(error)
        if status in _SETTINGS_WRONG:
            way_out = (
                f"Check the name {self.about['model']!r} and that the URL ends in /v1."
                if status == 404
                else "Name the environment variable with its key by api_key_env."
            )
            return ModelError(f"The endpoint {self._public} refuses: {reason}. {way_out}")
        unreachable = isinstance(error, self._openai.APIConnectionError)
        unreachable = unreachable and not isinstance(error, self._openai.APITimeoutError)
        with self._lock:
            self._failed += 1
            dead = self._failed >= DEAD or (unreachable and not self._answered)
        if dead:
            times = "nothing answers there" if unreachable else f"it has failed {self._failed} times in a row"
            return ModelError(f"The endpoint {self._public} cannot be used: {times} ({reason}). Is the server running?")
        return NoAnswer(reason)

    def _words(self, error: Exception) -> str:
        """An error in one line, without the key: servers like to repeat it."""
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            return f"the key is missing or wrong (HTTP {status})"
        if isinstance(error, self._openai.APITimeoutError):
            return "no answer in time"
        if isinstance(error, self._openai.APIConnectionError):
            return f"no connection ({error.__cause__ or error})"
        if isinstance(error, ValueError):
            return "the answer is not JSON"
        words = str(getattr(error, "message", error)).removeprefix(f"Error code: {status} - ")
        words = " ".join(words.split()).replace(self._key, "***")
        return f"{f'HTTP {status}: ' if status else ''}{words:.200}"


def _text(reply: Any) -> str:
    """What the model says. Raises NoAnswer where it says nothing, refuses or was cut off."""
    try:
        choice = reply.choices[0]
        text, refusal, end = choice.message.content, choice.message.refusal, choice.finish_reason
    except (AttributeError, IndexError, TypeError):
        raise NoAnswer("the server's answer has no message in it") from None
    if refusal or end == "content_filter":
        raise NoAnswer(f"the model refused: {refusal or 'filtered by the server':.120}")
    if end == "length":
        raise NoAnswer("the answer was cut off: allow more max_tokens")
    if not isinstance(text, str):
        raise NoAnswer("the answer is empty")
    return text


def jpeg_uri(frame: np.ndarray) -> str:
    """A frame, uint8 `[H, W, 3]`, as a `data:` URI that holds a JPEG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def without_credentials(url: str) -> str:
    """An endpoint's URL without user, password and query.

    Raises:
        UsageError: it is no URL of http or https.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in ("http", "https") or not host:
        shown = url.rsplit("@", 1)[-1]
        raise UsageError(f"The endpoint {shown!r} is no URL. It looks like http://127.0.0.1:8000/v1.")
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, f"{host}:{port}" if port else host, parts.path, "", ""))
