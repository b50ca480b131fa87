"""The pretrained models that the families know: which there are, and which of them are on this machine."""

from importlib import import_module
from pathlib import Path

from ..errors import ModelError
from .base import FAMILIES, Published


def published() -> list[tuple[str, Published]]:
    """The name of each family with each of its models."""
    found = []
    for place in dict.fromkeys(FAMILIES.values()):
        module, name = place.split(":")
        family = getattr(import_module(f".{module}", __package__), name)
        found += [(family.name, model) for model in getattr(family, "published", ())]
    return found


def on_this_machine(repository: str, file: str = "model_index.json") -> Path | None:
    """The folder of a model (or of a part, by its `config.json`) in the Hugging Face cache; None where it is not."""
    from huggingface_hub import try_to_load_from_cache

    try:
        index = try_to_load_from_cache(repository, file)
    except ValueError:  # it is no name that a repository can have
        return None
    return Path(index).parent if isinstance(index, str) else None


def named(name: str) -> Path | None:
    """The folder that the name of a published model means, with or without its owner; None where it names none.

    Raises:
        ModelError: it is not on this machine.
    """
    repositories = [model.repository for _, model in published()]
    known = [repository for repository in repositories if name in (repository, repository.partition("/")[2])]
    if not known:
        return None
    # a model that is published in parts has no index
    folder = on_this_machine(known[0]) or on_this_machine(known[0], "config.json")
    if folder is None:
        raise ModelError(
            f"{known[0]} is not on this machine. Fetch it where there is a network: hf download {known[0]}"
        )
    return folder
