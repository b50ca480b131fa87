"""Command-line flags onto the fields of a configuration, which is a pydantic model of sections."""

import copy
import difflib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from .errors import UsageError


class Flags:
    """The flags of a configuration: each field by its dotted name and, where that is unique, by its last name.

    Args:
        config: the model.
        aliases: other names for the same thing: flag -> dotted name.
        bare: what a flag without a value means, where that is not simply true.
    """

    def __init__(self, config: type[BaseModel], aliases: Mapping[str, str], bare: Mapping[str, Any]):
        self.fields, self.aliases, self.bare = dict(fields(config)), aliases, bare

    @property
    def names(self) -> dict[str, str]:
        """Every accepted flag (without dashes) -> dotted field name."""
        last = [name.rsplit(".", 1)[-1] for name in self.fields]
        unique = {short: name for short, name in zip(last, self.fields, strict=True) if last.count(short) == 1}
        return {**unique, **self.aliases} | {name: name for name in self.fields}

    def parse(self, tokens: Sequence[str]) -> dict[str, Any]:
        """`--name value`, `--name=value` and bare `--name` as {dotted name: value}; `-` and `_` in names are the same.

        Values are read as YAML scalars, so `1e-4`, `null` and `[1, 2]` mean what they look like; fields that hold lists
        take several values.

        Raises:
            UsageError: an unknown flag, with the nearest known ones, or a value where none belongs.
        """
        known = self.names
        values: dict[str, Any] = {}
        position = 0
        while position < len(tokens):
            token = tokens[position]
            position += 1
            if not token.startswith("--"):
                raise UsageError(
                    f"{token!r} stands where an option is expected. Options begin with --, as in --seed 1."
                )
            flag, equals, inline = token[2:].partition("=")
            flag = flag.replace("-", "_")
            if flag not in known:
                names = known if "." in flag else [name for name in known if "." not in name]
                raise UsageError(
                    f"There is no option --{flag}.{did_you_mean(flag, names, '--')} "
                    "`text2video train --help` lists all."
                )
            name = known[flag]
            given = [inline] if equals else []
            while not equals and position < len(tokens) and not _is_flag(tokens[position]):
                given.append(tokens[position])
                position += 1
            values[name] = self._value(flag, name, given)
        return values

    def _value(self, flag: str, name: str, given: list[str]) -> Any:
        annotation = self.fields[name].annotation
        if not given:
            if name in self.bare:
                return copy.copy(self.bare[name])
            if annotation is bool:
                return True
            raise UsageError(f"--{flag} needs a value, as in --{flag} {_example(annotation)}.")
        if given == ["null"] and type(None) in get_args(annotation):
            return None
        many = any(get_origin(kind) in (list, tuple) for kind in (annotation, *get_args(annotation)))
        if len(given) > 1 and not many:
            raise UsageError(
                f"--{flag} takes one value and got {len(given)}: {' '.join(given)}. "
                "Put quotes around a value with spaces."
            )
        if annotation is str or annotation == str | None or _holds_text(annotation):
            return given if many else given[0]
        values = [_scalar(value) for value in given]
        return values if many and not isinstance(values[0], list) else values[0]


def fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field as (dotted name, field), sections unfolded, in the order of the classes."""
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is None or type(None) in get_args(field.annotation):  # an optional section is a value too
            yield prefix + name, field
        if inner is not None:
            yield from fields(inner, f"{prefix}{name}.")


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, if it does."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def did_you_mean(name: str, known: Iterable[str], dashes: str = "") -> str:
    """A sentence with the known names that are nearest, or nothing."""
    near = difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3)
    return f" Did you mean {' or '.join(dashes + n for n in near)}?" if near else ""


def _is_flag(token: str) -> bool:
    return token.startswith("--") and len(token) > 2


def _holds_text(annotation: Any) -> bool:
    return (get_origin(annotation) is list and get_args(annotation) == (str,)) or Path in (
        annotation,
        *get_args(annotation),
    )


def _scalar(text: str) -> Any:
    try:
        return YAML(typ="safe").load(text)
    except YAMLError:
        return text


def _example(annotation: Any) -> str:
    options = get_args(annotation) if get_origin(annotation) is Literal else ()
    return str(options[0]) if options else {int: "1", float: "0.5"}.get(annotation, "VALUE")
