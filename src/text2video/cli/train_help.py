"""The help of `train`, made from the fields of the configuration, so that it cannot fall behind them."""

import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..config import ALIASES, FLAGS, RunConfig

OF_THE_COMMAND = {
    "--resume": "go on with the run in output_dir; without CONFIG.yaml by its own run.yaml",
    "--dry_run": "print the whole configuration, parameter counts, shapes and steps; write nothing",
    "--help": "print this",
}


def show(introduction: str, console: Console | None = None) -> None:
    """Print the help: what `train` is, and every option by section with its default."""
    console = console or Console(highlight=False, soft_wrap=False)
    for paragraph in introduction.split("\n\n"):
        console.print(Text(" ".join(paragraph.split())), end="\n\n")
    section(console, "The command", [(flag, "", text) for flag, text in OF_THE_COMMAND.items()])
    for title, rows in sections().items():
        section(console, title, rows)


def sections() -> dict[str, list[tuple[str, str, str]]]:
    """Title of a section -> its options: (flag, what it takes, description and default)."""
    by_name = {name: flag for flag, name in reversed(FLAGS.names.items()) if flag not in ALIASES}
    also = {name: f" (also --{alias})" for alias, name in ALIASES.items()}
    found: dict[str, list[tuple[str, str, str]]] = {}
    for name, field in FLAGS.fields.items():
        first = name.split(".")[0]
        title = f"{first}: {section_doc(first)}" if "." in name else "The run"
        default = "" if field.default in (None, "", PydanticUndefined) else f" [{written(field.default)}]"
        text = f"{field.description}{also.get(name, '')}{default}"
        found.setdefault(title, []).append((f"--{by_name[name]}", kind(field.annotation), text))
    return found


def section_doc(name: str) -> str:
    """The first line of a section's docstring."""
    return (RunConfig.model_fields[name].annotation.__doc__ or "").split("\n")[0].rstrip(".")  # pyright: ignore


def section(console: Console, title: str, rows: list[tuple[str, str, str]]) -> None:
    """Print one section as a table without lines."""
    table = Table.grid(padding=(0, 2))
    for flag, takes, text in rows:
        table.add_row(Text(f"{flag} {takes}".strip(), style="cyan", overflow="fold"), Text(text))
    console.print(Text(title, style="bold"), Padding(table, (0, 0, 1, 2)))


def written(value: Any) -> str:
    """A default as it is written on the command line."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def kind(annotation: Any) -> str:
    """What a flag takes, in a word."""
    if get_origin(annotation) in (Union, types.UnionType):
        return kind(next(part for part in get_args(annotation) if part is not type(None)))
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (list, tuple):
        return f"{kind(get_args(annotation)[0])} ..."
    if get_origin(annotation) is not None and hasattr(annotation, "__metadata__"):
        return kind(get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return ""
    names = {bool: "", int: "INT", float: "FLOAT", str: "TEXT"}
    return names.get(annotation, "PATH" if getattr(annotation, "__name__", "") == "Path" else "YAML")
