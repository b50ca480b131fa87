"""Weights as their authors published them: a folder with config.json and model.safetensors, not diffusers' names."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import ModelError


class PublishedModel(ModelMixin, ConfigMixin):
    """A model whose tensors have the published names, and so reads the published file as it is.

    `from_pretrained` opens both forms; `save_pretrained` writes diffusers' form.
    """

    published_type: str
    """What `model_type` in the published config.json says."""
    published_names: Mapping[str, str] = {}
    """Argument -> its name in the published config.json, where that is another."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Self:
        """The model in a folder, in evaluation mode.

        Raises:
            ModelError: the folder holds another model, or tensors are missing, left over or of another shape.
        """
        folder = Path(pretrained_model_name_or_path) / (kwargs.get("subfolder") or "")
        weights = folder / "model.safetensors"
        if not weights.is_file():
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        config, dtype = cls.published_config(folder), kwargs.get("torch_dtype") or torch.float32
        with torch.device("meta"):
            model = cls(**config)
        try:
            # copied, since loaded weights lie where the file had them: products differ by 2e-6 unless aligned anew
            found = {name: value.to(dtype, copy=True) for name, value in load_file(weights).items()}
            model.load_state_dict(found, strict=True, assign=True)
        except (SafetensorError, RuntimeError) as error:
            lines = str(error).splitlines()
            raise ModelError(
                f"{weights} does not fit its config.json: {' '.join(line.strip() for line in lines[1:3]) or lines[0]}. "
                "Download the folder again."
            ) from None
        model.eval()
        return model

    @classmethod
    def published_config(cls, folder: Path) -> dict[str, Any]:
        """Arguments of the class from the published config.json; what the class does not know of is left out.

        Raises:
            ModelError: it cannot be read, or is of another model.
        """
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            kind = config.get("model_type")
        except (OSError, ValueError, AttributeError):
            raise ModelError(f"{folder} has no config.json that can be read. Download the folder again.") from None
        if kind != cls.published_type:
            raise ModelError(f"The model in {folder} is a {kind}, and a {cls.published_type} was expected.")
        arguments = {name: cls.published_names.get(name, name) for name in inspect.signature(cls).parameters}
        return {name: config[theirs] for name, theirs in arguments.items() if theirs in config}
