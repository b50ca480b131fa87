"""`text2video export`: a trained adapter for other tools."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from .terminal import say


def export(
    *,
    model: Annotated[Path, Parameter(name=["--model", "--model_path", "--checkpoint"])],
    format: Literal["diffusers", "comfyui", "merged"] = "diffusers",
    output_dir: Path,
) -> None:
    """Write a trained adapter for other tools, and read it back to be sure.

    It prints how many tensors match the base model and how much they change it. An adapter that matches nothing or
    changes nothing is an error.

    Args:
        model: The run's folder, or its final folder.
        format: diffusers: a file for load_lora_weights; comfyui: in the layers' names of ComfyUI; merged: the base
            model with the adapter in its weights.
        output_dir: A new folder for it.
    """
    from ..families.export import export as write

    for result in write(model, format, output_dir):
        say(str(result))
