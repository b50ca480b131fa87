"""What is asked of a model about a clip, who answers, and how an answer becomes a caption.

Two kinds of models answer: one behind an HTTP endpoint (`data.endpoint`) and one of transformers in this process
(`models.captioner`). The job in `data.captions` knows them by `Answerer` alone.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import DataError, Text2VideoError

_THOUGHTS = re.compile(r"<(think|thinking|thought|reasoning)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_END_OF_THOUGHT = re.compile(r".*</(?:think|thinking|thought|reasoning)>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^```\w*\n(.*?)\n?```$", re.DOTALL)
_THING = r"(?:captions?|descriptions?|prompts?|answers?|rewrites?|versions?|sentences?)"
_OPENINGS = (
    re.compile(r"(?:sure(?: thing)?|certainly|of course|absolutely)[!.,]\s*", re.IGNORECASE),
    re.compile(rf"(?:here(?:['’]s| is| are)|this is)\b[^\n:.]{{0,60}}\b{_THING}\b[^\n:.]{{0,60}}:\s*", re.IGNORECASE),
    re.compile(rf"(?:the |a )?(?:\w+ )?{_THING}\s*:\s*", re.IGNORECASE),
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "「": "」", "„": "“"}
_REFUSAL = re.compile(
    r"(?:i['’]m|i am) (?:\w+ )?(?:sorry|unable|not able)|sorry,|unfortunately,? i\b|i apologi[sz]e"
    r"|as an? (?:ai|language|large)\b|i (?:can['’]t|cannot|can not|won['’]t|don['’]t|do not|could not|couldn['’]t) ",
    re.IGNORECASE,
)


class NoAnswer(Text2VideoError):
    """One question without an answer that can be used, and why. The other questions go on."""


class Question(NamedTuple):
    """A prompt, and the frames it is about: uint8 `[T, H, W, 3]` in order of time, or None."""

    prompt: str
    frames: np.ndarray | None


class Answerer(Protocol):
    """A model that answers questions.

    Attributes:
        about: the model's name and where it runs, without credentials; kept with every answer.
        settings: what else decides an answer. When `about["model"]` or these change, questions are asked anew.
        batch_size: questions in one call.
        concurrency: calls at the same time, from as many threads.
    """

    about: dict[str, Any]
    settings: dict[str, Any]
    batch_size: int
    concurrency: int

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """One answer a question. NoAnswer: these have none; any other error of ours ends the whole job."""
        ...

    def close(self) -> None:
        """Ends calls that are under way."""
        ...


def clean_answer(text: str) -> str:
    """The caption in what a model says: without its thoughts, its opening words, quotes and line breaks.

    Raises:
        NoAnswer: nothing is left, or the model refuses.
    """
    text = _END_OF_THOUGHT.sub("", _THOUGHTS.sub("", text)).strip()
    text = _FENCE.sub(r"\1", text).replace("**", "").strip()
    for opening in _OPENINGS:
        if found := opening.match(text):
            text = text[found.end() :].strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and not {text[0], text[-1]} & set(text[1:-1]):
        text = text[1:-1]
    text = " ".join(text.split())
    if not any(sign.isalnum() for sign in text):
        raise NoAnswer("the answer is empty")
    if _REFUSAL.match(text):
        raise NoAnswer(f"the model refused: {text:.120}")
    return text


class AnswerLog:
    """Answers by key, in a file that only grows: one JSON line each, written as soon as it is there.

    A process that is killed loses the answers under way and no other: half a line at the end is passed over.

    Raises:
        DataError: the file is of another kind, or cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        try:
            lines = path.read_bytes().split(b"\n") if path.exists() else []
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
        self._torn = bool(lines) and bool(lines[-1])
        for line in lines:
            try:
                record = json.loads(line)
                self.records[record["key"]] = record
            except (ValueError, TypeError, KeyError):
                continue
        if any(lines) and not self.records:
            raise DataError(f"{path} stands where the answers are kept, and holds none. Give another name to write to.")

    def add(self, record: dict[str, Any]) -> None:
        """Keeps a record with its `key`."""
        line = json.dumps(record, ensure_ascii=False) + "\n"
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(f"\n{line}" if self._torn else line)
        self._torn = False
        self.records[record["key"]] = record
