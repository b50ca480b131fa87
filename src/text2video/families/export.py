"""A trained adapter for other tools: diffusers' file, ComfyUI's names, or merged into a whole model.

What is written is read back by the reader that the other side uses, laid over the base, and compared: an export that
matches nothing, or means something else than the adapter, is an error.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import ModelError, UsageError
from . import lora
from .base import Family, Opening
from .opening import model_folder, open_model

FORMATS = ("diffusers", "comfyui", "merged")


@dataclass(frozen=True)
class Exported:
    """One written file or folder, and what was found when it was read back."""

    path: Path
    applied: lora.Applied
    difference: float  # from the adapter's own change of the weights, relative to it

    def __str__(self) -> str:
        found = f"{self.applied.matched} tensors match" if self.applied.matched else "a whole model"
        change = f"layers change by up to {self.applied.change:.2g} of their size"
        return f"{self.path}: {found}, {change}, {self.difference:.1g} off the adapter"


def export(adapter: Path, form: str, output: Path) -> list[Exported]:
    """Writes an adapter that a run trained into the folder `output`.

    Args:
        form: diffusers: one file that `load_lora_weights` takes; comfyui: a file for each denoiser; merged: the base
            with the adapter in its weights, as a diffusers folder.

    Raises:
        UsageError: there is no such form, or none of it for this kind of model or adapter.
        ModelError: there is no adapter, or what was written does not do what the adapter does.
    """
    if form not in FORMATS:
        raise UsageError(f"There is no format {form!r}. Choose one of {', '.join(FORMATS)}.")
    folder = model_folder(adapter)
    base = lora.base_of(folder)
    if base is None:
        raise ModelError(f"{str(adapter)!r} is no adapter that a run trained: a whole model loads as it is.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is there already. Name a new folder by --output_dir.")
    family, pipe = open_model(folder, torch.device("cpu"), torch.float32)
    wanted, opening = deltas(family.denoisers(pipe)), Opening(parts=lora.parts_of(folder))
    output.mkdir(parents=True, exist_ok=True)
    try:
        if form == "merged":
            return [merged(family, pipe, base, opening, output, wanted)]
        if form == "diffusers":
            files = [output / lora.FILE]
            shutil.copyfile(folder / lora.FILE, files[0])
        else:
            files = comfyui(family, lora.read(folder, pipe), output)
        return [read_back(base, opening, file, wanted, family) for file in files]
    except BaseException:  # nothing stays that was not found right
        shutil.rmtree(output, ignore_errors=True)
        raise


def comfyui(family: Family, adapter: lora.Adapter, output: Path) -> list[Path]:
    """Writes the adapter in ComfyUI's names of the layers, a file for each denoiser.

    Raises:
        UsageError: ComfyUI has no names for it.
    """
    prefix = family.comfyui_prefix
    if prefix is None:
        raise UsageError(
            f"ComfyUI has no names of its own for a {family.name} model. Export it as diffusers or merged."
        )
    if any("lora_magnitude" in key for key in adapter.weights):
        raise UsageError("An adapter trained with --dora has no form in ComfyUI's names. Export it as merged.")
    files: dict[str, dict[str, Tensor]] = {}
    for key, value in adapter.weights.items():
        component, _, layer = key.partition(".")
        layer, _, kind = layer.partition(".lora_")  # kind: A.weight or B.weight
        for ours, theirs in family.comfyui_names.items():
            layer = layer.replace(ours, theirs)
        if kind.startswith("B"):  # its weight goes into the tensors: a reader without alpha takes it as 1
            value = value * adapter.scale(component)
        flat = prefix.endswith("_")
        place = layer.replace(".", "_") if flat else layer
        side = {"A": "lora_down", "B": "lora_up"}[kind[0]] if flat else f"lora_{kind[0]}"
        files.setdefault(component, {})[f"{prefix}{place}.{side}.weight"] = value.contiguous()
    written = []
    for component, state in files.items():
        name = "comfyui.safetensors" if len(files) == 1 else f"comfyui_{component}.safetensors"
        save_file(state, output / name, metadata={"format": "pt"})
        written.append(output / name)
    return written


def merged(
    family: Family, pipe: Any, base: Path, opening: Opening, output: Path, wanted: dict[str, Tensor]
) -> Exported:
    """Writes the base with the adapter in its weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in family.denoisers(pipe).values():
        for name, layer in list(module.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                parent, _, last = name.rpartition(".")
                setattr(module.get_submodule(parent), last, layer.get_base_layer())
        del module.peft_config
    family.save(pipe, output)
    _, before = open_model(base, torch.device("cpu"), torch.float32, opening)
    _, after = open_model(output, torch.device("cpu"), torch.float32)
    old, new = (
        {f"{name}.{key}": value for name, part in parts.items() for key, value in part.named_parameters()}
        for parts in (family.denoisers(before), family.denoisers(after))
    )
    found = {name: (new[f"{name}.weight"] - old[f"{name}.weight"]).detach() for name in wanted}
    sizes = [float(delta.norm() / old[f"{name}.weight"].norm().clamp(min=1e-12)) for name, delta in found.items()]
    return Exported(output, lora.Applied(0, (), max(sizes)), same(output, found, wanted))


def read_back(base: Path, opening: Opening, file: Path, wanted: dict[str, Tensor], family: Family) -> Exported:
    """Lays the file over the base, as anyone who gets it would.

    Raises:
        ModelError: some of it matches nothing, or it does something else than the adapter.
    """
    _, pipe = open_model(base, torch.device("cpu"), torch.float32, opening)
    adapter, parts = lora.read(file, pipe), family.denoisers(pipe)
    component = file.stem.removeprefix("comfyui_")
    if component in parts and component != file.stem:  # one of several: its names do not say whose it is
        parts = {component: parts[component]}
        weights = {f"{component}.{key.partition('.')[2]}": value for key, value in adapter.weights.items()}
        adapter = lora.Adapter(file, weights, {}, {})
    applied = lora.apply(parts, adapter, "read_back")
    if applied.unmatched:
        raise ModelError(f"{file} cannot be read back: {len(applied.unmatched)} names match no layer, such as "
                         f"{applied.unmatched[0]}.")  # fmt: skip
    asked = {name: delta for name, delta in wanted.items() if name.partition(".")[0] in parts}
    return Exported(file, applied, same(file, deltas(parts), asked))


def deltas(parts: dict[str, nn.Module]) -> dict[str, Tensor]:
    """COMPONENT.LAYER -> what the adapters add to its weights."""
    from peft.tuners.lora import LoraLayer

    return {
        f"{component}.{name}": lora.delta(layer)
        for component, module in parts.items()
        for name, layer in module.named_modules()
        if isinstance(layer, LoraLayer)
    }


def same(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """How far two changes of weights are apart, relative to the second.

    Raises:
        ModelError: further than rounding explains.
    """
    off = sum(float((found[name] - delta).square().sum()) for name, delta in wanted.items() if name in found)
    size = sum(float(delta.square().sum()) for delta in wanted.values())
    missing = [name for name in wanted if name not in found]
    difference = (off / max(size, 1e-30)) ** 0.5
    if missing or difference > 1e-3:
        what = f"{missing[0]} is missing" if missing else f"it is {difference:.1g} off"
        raise ModelError(f"{path} does not do what the adapter does: {what}. It is a bug: please report it.")
    return difference
