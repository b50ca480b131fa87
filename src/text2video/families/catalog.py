"""The pretrained models that the families know: which there are, and which of them are on this machine."""

from importlib import import_module
from pathlib import Path

from ..errors import ModelError
from .base import FAMILIES, Published


def published() -> dict[str, tuple[str, Published]]:
    """Repository -> name of its family, and the model."""
    found = {}
    for place in dict.fromkeys(FAMILIES.values()):
        module, name = place.split(":")
        family = getattr(import_module(f".{module}", __package__), name)
        found |= {model.repository: (family.name, model) for model in getattr(family, "published", ())}
    return found


def on_this_machine(repository: str) -> Path | None:
    """The folder of a model in the Hugging Face cache; None where it is not, or not its index."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(repository, "model_index.json")
    return Path(index).parent if isinstance(index, str) else None


def named(name: str) -> Path | None:
    """The folder that the name of a published model means, with or without its owner; None where it names none.

    Raises:
        ModelError: it is not on this machine.
    """
    known = [repository for repository in published() if name in (repository, repository.partition("/")[2])]
    if not known:
        return None
    folder = on_this_machine(known[0])
    if folder is None:
        raise ModelError(
            f"{known[0]} is not on this machine. Fetch it where there is a network: hf download {known[0]}"
        )
    return folder
