"""A user's own class by its dotted path."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import UsageError


def import_class(path: str) -> Any:
    """The class at `module:Class`; modules in the current folder are found too.

    Raises:
        UsageError: the path has no colon, the module cannot be imported, or it has no such class.
    """
    module, _, name = path.partition(":")
    if not module or not name or module.startswith("."):
        raise UsageError(f"{path!r} names no class. Write module:Class, as in my_models:ConditionalUNet3D.")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return getattr(import_module(module), name)
    except AttributeError as error:
        raise UsageError(f"{path!r} cannot be used: {error}.") from None
    except Exception as error:  # whatever the user's own module raises
        kind = type(error).__name__
        raise UsageError(
            f"{module!r} cannot be imported ({kind}: {error}). Run from the folder that holds it."
        ) from None


def construct(kind: Any, *args: Any, **kwargs: Any) -> Any:
    """An object of a (user's) class.

    Raises:
        UsageError: the class does not take these arguments.
    """
    try:
        return kind(*args, **kwargs)
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:  # as the class, or torch, finds them wrong
        raise UsageError(
            f"{kind.__qualname__} cannot be made: {error}. Its arguments come from the configuration."
        ) from None
