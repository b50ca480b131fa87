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
    module, colon, name = path.partition(":")
    if not colon:
        raise UsageError(f"{path!r} names no class. Write module:Class, as in my_models:ConditionalUNet3D.")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise UsageError(f"{module!r} cannot be imported ({error}). Run from the folder that holds it.") from None
    except AttributeError:
        raise UsageError(f"The module {module!r} has no {name!r}.") from None
