"""Prompts from a file or from the keyboard."""

import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import UsageError


def read_prompts(path: Path) -> list[str]:
    """The prompts of a UTF-8 text file, one a line; empty lines are skipped.

    Raises:
        UsageError: there is no such file, it is not UTF-8, or it holds no prompt.
    """
    if not path.is_file():
        raise UsageError(f"There is no prompt file {path}. Give a text file with a prompt a line.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"The prompt file {path} is not UTF-8 ({error.reason}). Save it as UTF-8 text.") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UsageError(f"The prompt file {path} holds no prompt. Write one a line.")
    return prompts


def ask(question: str) -> str | None:
    """A line from the keyboard without the white space around it; None at its end (Ctrl-D)."""
    try:
        # where either end is no terminal nobody reads the question, and it would stand among the results
        answer = input(question if sys.stdin.isatty() and sys.stdout.isatty() else "")
    except EOFError:
        return None
    return answer.strip().strip("\ufeff")


def asked_prompts() -> Iterator[list[str]]:
    """One prompt after another, each by itself; an empty line, `exit` or Ctrl-D ends.

    Raises:
        UsageError: there is no terminal to ask on, and nothing came in.
    """
    count = 0
    while (prompt := ask("Prompt: ")) and prompt != "exit":
        count += 1
        yield [prompt]
    if not count and prompt is None and not sys.stdin.isatty():
        raise UsageError("There are no prompts. Give --prompts, --prompt or --prompt_file.")
