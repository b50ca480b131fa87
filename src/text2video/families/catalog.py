"""The pretrained models that the families know: which there are, and which of them are on this machine."""

from importlib import import_module
from pathlib import Path

from ..errors import ModelError
from .base import Published
from .opening import FAMILIES


def published() -> list[tuple[str, Published]]:
    """The name of each family with each of its models."""
    found = []
    for place in dict.fromkeys(FAMILIES.values()):
        module, name = place.split(":")
        family = getattr(import_module(f".{module}", __package__), name)
        found += [(family.name, model) for model in getattr(family, "published", ())]
    return found


def on_this_machine(repository: str, *files: str) -> Path | None:
    """The folder of a model in the Hugging Face cache; None where it is not.

    Args:
        files: of which one has to be there; none: what a whole model has, or one that is published in parts.
    """
    from huggingface_hub import try_to_load_from_cache

    for file in files or ("model_index.json", "config.json"):
        try:
            found = try_to_load_from_cache(repository, file)
        except ValueError:  # it is no name that a repository can have
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None


def named(name: str) -> Path | None:
    """The folder that the name of a published model means, with or without its owner; None where it names none.

    Raises:
        ModelError: it is not on this machine.
    """
    repositories = [model.repository for _, model in published()]
    known = [repository for repository in repositories if name in (repository, repository.partition("/")[2])]
    if not known:
        return None
    folder = on_this_machine(known[0])
    if folder is None:
        raise ModelError(
            f"{known[0]} is not on this machine. Fetch it where there is a network: hf download {known[0]}"
        )
    return folder
