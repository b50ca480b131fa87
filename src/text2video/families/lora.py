"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), by peft: added to a model, written, read and laid over another.

An adapter is written in the form that diffusers loads: `COMPONENT.LAYER.lora_A.weight` and `lora_B.weight` in one
safetensors file, with rank and alpha in its metadata. Beside it stands `base.json`, which names the model it belongs
to, so that the folder alone can be generated from.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import ModelError, UsageError

FILE, BASE = "pytorch_lora_weights.safetensors", "base.json"
NAME = "trained"  # of the adapter that a run trains
_METADATA = "lora_adapter_metadata"  # the key that diffusers reads rank and alpha under
_PEFT = re.compile(r"\.lora_(A|B|magnitude_vector|embedding_A|embedding_B)\b")

logger = logging.getLogger("text2video")


@dataclass
class Adapter:
    """An adapter read from a file."""

    source: Path
    weights: dict[str, Tensor]  # COMPONENT.LAYER.lora_A.weight ...
    metadata: dict[str, Any]  # COMPONENT.r, COMPONENT.lora_alpha ...; empty where the file says nothing
    alphas: dict[str, float]  # COMPONENT.LAYER.alpha, as other tools' files have them

    def scale(self, component: str) -> float:
        """What the product of a layer's two matrices is multiplied by."""
        rank, alpha = self.metadata[f"{component}.r"], self.metadata[f"{component}.lora_alpha"]
        return alpha / (rank**0.5 if self.metadata.get(f"{component}.use_rslora") else rank)


@dataclass(frozen=True)
class Applied:
    """What an adapter changed."""

    matched: int  # tensors that found their layer
    unmatched: tuple[str, ...]  # the names of the others
    change: float  # the largest change of a layer's weights, relative to their size


def add(
    modules: Mapping[str, nn.Module],
    targets: Sequence[str],
    rank: int = 16,
    alpha: float | None = None,
    rslora: bool = False,
    dora: bool = False,
    dropout: float = 0.0,
) -> None:
    """Puts a new adapter, which changes nothing yet, into each module; all other weights are frozen.

    Args:
        targets: names, or ends of names, of the layers that it goes to.
        alpha: its weight is alpha / rank (rsLoRA: alpha / sqrt(rank)); None: alpha = rank.

    Raises:
        UsageError: a module has no such layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    for name, module in modules.items():
        module.requires_grad_(False)
        config = LoraConfig(
            r=rank,
            lora_alpha=rank if alpha is None else alpha,  # pyright: ignore[reportArgumentType] - floats work
            target_modules=list(targets),
            use_rslora=rslora,
            use_dora=dora,
            lora_dropout=dropout,
        )
        try:
            inject_adapter_in_model(config, module, adapter_name=NAME)
        except ValueError as error:
            raise UsageError(f"No adapter can be added to {name}: {error} Name other layers by --targets.") from None
        _hold_in_float32(module, NAME)


def weights(modules: Mapping[str, nn.Module], name: str = NAME) -> dict[str, Tensor]:
    """The adapter's weights in diffusers' names, on the CPU."""
    from peft import get_peft_model_state_dict

    return {
        f"{component}.{key}": value.detach().cpu().contiguous()
        for component, module in modules.items()
        for key, value in get_peft_model_state_dict(module, adapter_name=name).items()
    }


def save(folder: Path, modules: Mapping[str, nn.Module], base: Path, parts: Mapping[str, Path] | None = None) -> None:
    """Writes the trained adapter as `FILE` and the model it belongs to as `BASE` into a folder.

    Args:
        parts: what the model was opened with: see `Opening.parts`.
    """
    metadata = {
        f"{component}.{key}": sorted(value) if isinstance(value, set) else value
        for component, module in modules.items()
        for key, value in module.peft_config[NAME].to_dict().items()  # pyright: ignore
        if isinstance(value, str | int | float | list | dict | set | None)
    }
    folder.mkdir(parents=True, exist_ok=True)
    words = {"format": "pt", _METADATA: json.dumps(metadata, sort_keys=True)}
    save_file(weights(modules), folder / FILE, metadata=words)
    beside = {name: str(path.resolve() if path.exists() else path) for name, path in (parts or {}).items()}
    note = {"base": str(base.resolve()), **({"parts": beside} if beside else {})}
    (folder / BASE).write_text(json.dumps(note) + "\n", encoding="utf-8")


def base_of(folder: Path) -> Path | None:
    """The model that the adapter in a folder belongs to; None where there is no adapter.

    Raises:
        ModelError: `base.json` is damaged.
    """
    return Path(_note(folder)["base"]) if (folder / BASE).is_file() else None


def parts_of(folder: Path) -> dict[str, Path]:
    """The further parts that the adapter's model is opened with: name -> folder."""
    return {name: Path(part) for name, part in _note(folder).get("parts", {}).items()}


def _note(folder: Path) -> dict[str, Any]:
    note = folder / BASE
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        if not isinstance(found["base"], str) or not isinstance(found.get("parts", {}), dict):
            raise TypeError
        return found
    except (ValueError, KeyError, TypeError):
        raise ModelError(
            f"{note} is damaged: it does not name the adapter's base. Give the adapter by --lora."
        ) from None


def read(path: Path, pipe: Any) -> Adapter:
    """The adapter in a folder or a safetensors file, in diffusers' names whichever tool wrote it.

    Args:
        pipe: of the kind that it is for, whose own reader knows other tools' names.

    Raises:
        ModelError: there is none that can be read.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file() or file.suffix != ".safetensors":
        raise ModelError(f"{str(path)!r} is no adapter: give a safetensors file, or a folder with {FILE}.")
    try:
        with safe_open(file, "pt") as opened:
            words = opened.metadata() or {}
        state: dict[str, Tensor] = load_file(file)
        metadata = json.loads(words.get(_METADATA, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"The adapter {file} cannot be read: {error}") from None
    if all(_PEFT.search(key) and key.partition(".")[0] in pipe.components for key in state):
        return Adapter(file, state, metadata, {})
    if not hasattr(type(pipe), "lora_state_dict"):
        raise ModelError(f"The adapter {file} has names that are not diffusers' own: {next(iter(state))}.")
    try:
        state, *more = type(pipe).lora_state_dict(file, return_lora_metadata=True, use_safetensors=True)
    except Exception as error:  # each converter has its own ways to fail
        raise ModelError(f"The adapter {file} is not one for a {type(pipe).__name__}: {error}") from None
    alphas = more[0] if len(more) == 2 and more[0] else {}
    weights = {_peft_name(key, pipe): value for key, value in state.items()}
    layers = {_peft_name(key, pipe).partition(".lora_")[0]: float(value) for key, value in alphas.items()}
    scales = {f"{layer.removesuffix('.alpha')}.alpha": alpha for layer, alpha in layers.items()}
    # A model of two denoisers has a file for each, with the same names in both: the file's own name says whose it is.
    if own := next((name for name in pipe.components if file.stem.endswith(f"_{name}")), None):
        weights, scales = ({f"{own}.{k.partition('.')[2]}": v for k, v in d.items()} for d in (weights, scales))
    return Adapter(file, weights, {}, scales)


def _peft_name(key: str, pipe: Any) -> str:
    """A name in one of diffusers' older forms -> COMPONENT.LAYER.lora_A.weight."""
    from diffusers.utils.state_dict_utils import (
        StateDictType,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    if _PEFT.search(key):
        return key
    component, _, layer = key.partition(".")
    part = pipe.components.get(component)
    if hasattr(part, "config_class"):  # of transformers
        layer = next(iter(convert_state_dict_to_peft({layer: None}, StateDictType.DIFFUSERS_OLD)))
        if not hasattr(part, "text_model"):  # newer versions of CLIP's text encoder have no such level
            layer = layer.removeprefix("text_model.")
    else:
        layer = next(iter(convert_unet_state_dict_to_peft({layer: None})))
    return f"{component}.{layer}"


def apply(modules: Mapping[str, nn.Module], adapter: Adapter, name: str) -> Applied:
    """Lays an adapter over the modules that it has weights for, beside adapters that are there already.

    Raises:
        ModelError: it matches no layer, does not fit one, or changes nothing.
    """
    from diffusers.utils.peft_utils import get_peft_kwargs
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    matched, unmatched = 0, []
    for component, module in modules.items():
        own = _within(component, adapter.weights)
        layers = dict(module.named_modules())
        missing = [key for key in own if key.partition(".lora_")[0] not in layers]
        unmatched += [f"{component}.{key}" for key in missing]
        own = {key: value for key, value in own.items() if key not in missing}
        if not own:
            continue
        ranks = {f"^{key}": value.shape[1] for key, value in own.items() if "lora_B" in key and value.ndim > 1}
        known = _within(component, adapter.metadata)
        config = known or get_peft_kwargs(ranks, _within(component, adapter.alphas), own)
        try:
            inject_adapter_in_model(LoraConfig(**config), module, adapter_name=name, state_dict=own)
            _hold_in_float32(module, name)
            set_peft_model_state_dict(module, own, adapter_name=name)
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"The adapter {adapter.source} does not fit this model's {component}: {reason}") from None
        set_active(module)
        module.requires_grad_(False).eval()
        matched += len(own)
    unmatched += [key for key in adapter.weights if key.partition(".")[0] not in modules]
    if not matched:
        raise ModelError(
            f"The adapter {adapter.source} matches no layer of this model; its first name is "
            f"{next(iter(adapter.weights), 'missing: it is empty')}. It was made for another model."
        )
    result = Applied(matched, tuple(unmatched), max(changes(modules.values(), name), default=0.0))
    if result.change == 0:
        raise ModelError(f"The adapter {adapter.source} changes nothing: its weights are zero. Train it first.")
    logger.info("%s: %d tensors, weights change by up to %.2g", adapter.source, result.matched, result.change)
    if unmatched:
        logger.warning("%s: %d tensors match no layer: %s ...", adapter.source, len(unmatched), unmatched[0])
    return result


def _hold_in_float32(module: nn.Module, name: str) -> None:
    """In bf16 small steps of training would be lost, and a video differ from those that training showed."""
    for key, parameter in module.named_parameters():
        if ".lora_" in key and f".{name}" in key:
            parameter.data = parameter.data.float()


def set_active(module: nn.Module) -> None:
    """Has all adapters of a module at work, not the last one alone."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in module.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.set_adapter(sorted(layer._get_available_adapters()))


def changes(modules: Iterable[nn.Module], name: str = NAME) -> Iterable[float]:
    """For each layer with the adapter, how much it changes the weights: the ratio of Frobenius norms."""
    from peft.tuners.lora import LoraLayer

    for module in modules:
        for layer in module.modules():
            if isinstance(layer, LoraLayer) and name in layer.lora_A:
                weight: Any = layer.get_base_layer().weight
                yield float(delta(layer, [name]).norm() / weight.float().norm().clamp(min=1e-12))


def delta(layer: Any, names: Sequence[str] | None = None) -> Tensor:
    """What adapters add to a layer's weights, float32, by peft's own merging; None: those that are at work.

    Of DoRA that is more than the product of the two matrices: it turns rows and gives them another length.
    """
    weight = layer.get_base_layer().weight
    kept = weight.data
    weight.data = kept.float()  # peft adds in place
    if weight.data is kept or weight.data.data_ptr() == kept.data_ptr():
        weight.data = kept.clone()
    try:
        layer.merge(adapter_names=names)
        return weight.data - kept.float()
    finally:
        weight.data = kept
        layer.merged_adapters.clear()


@contextmanager
def folded(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within, what `add` added (not DoRA) is part of the layers' weights, and the modules are as if it had never been.

    Weights come back bit for bit. Modules without adapters are left alone.
    """
    adapted = [module for module in modules if getattr(module, "peft_config", None)]
    layers: list[tuple[nn.Module, str, Any]] = []
    if adapted:
        from peft.tuners.lora import LoraLayer

        layers = [
            (module, name, layer)
            for module in adapted
            for name, layer in module.named_modules()
            if isinstance(layer, LoraLayer)
        ]
    kept = []
    try:
        for module, name, layer in layers:
            base: Any = layer.get_base_layer()
            kept.append((base, base.weight.data))
            # not by `delta`: peft's merging fails on a Conv3d of kernel 1; the second matrix never has another
            down, up = (part[NAME].weight.detach().flatten(1) for part in (layer.lora_A, layer.lora_B))
            change = (up @ down).view_as(base.weight) * layer.scaling[NAME]
            base.weight.data = base.weight.data + change.to(base.weight.dtype)
            module.set_submodule(name, base)
        yield
    finally:
        for (module, name, layer), (base, weight) in zip(layers, kept, strict=False):
            base.weight.data = weight
            module.set_submodule(name, layer)


def _within(component: str, values: Mapping[str, Any]) -> dict[str, Any]:
    start = f"{component}."
    return {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}
