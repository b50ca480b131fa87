"""Nested values of a configuration: read from YAML and from presets, and laid over one another."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from .errors import UsageError
from .flags import did_you_mean

PRESETS = Path(__file__).parent / "presets"


def read_yaml(path: Path) -> dict[str, Any]:
    """Nested values from a YAML 1.2 file. Duplicate keys are refused."""
    if not path.is_file():
        raise UsageError(
            f"There is no configuration {str(path)!r}. Give the path of a YAML file, such as one in configs/."
        )
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8-sig"))
    except MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line} is not valid YAML: {error.problem or error.context}.") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(
            f"{path} holds one {type(values).__name__}. A configuration is a mapping of sections to values."
        )
    return values


def preset_file(name: str) -> Path:
    """The YAML file of a preset.

    Raises:
        UsageError: there is none of that name.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in PRESETS.glob("*.yaml"))
        raise UsageError(f"There is no preset {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}.")
    return path


def over(below: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values laid over others, section by section; both stay as they are."""
    result = copy.deepcopy(dict(below))
    for name, value in values.items():
        inner = result.get(name)
        if isinstance(inner, dict) and isinstance(value, Mapping):
            result[name] = over(inner, value)
        else:
            result[name] = copy.deepcopy(value)
    return result


def merged(values: dict[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Nested `values` with dotted `flags` laid over them; a section's own flag comes before those of its fields."""
    for name, value in sorted(flags.items(), key=lambda flag: flag[0].count(".")):
        *sections, last = name.split(".")
        place = values
        for section in sections:
            if not isinstance(place.get(section), dict):
                place[section] = {}
            place = place[section]
        keeps = value == {} and isinstance(place.get(last), dict)  # a bare --shapes asks for what is there already
        place[last] = place[last] if keeps else value
    return values
