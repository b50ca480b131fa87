"""Checkpoints that survive a kill at any moment, and the pointers to the last and the best one.

A checkpoint is written into a folder `tmp-NAME` beside its place, flushed to the disk, renamed, and the folder above
flushed: under its own name it is always whole. The step is its only position, since everything else follows from it.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..errors import TrainingError
from .sharding import dealt, dealt_state


def write_whole(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a folder, so that it stands at `folder` whole or not at all; an older one is replaced.

    Raises:
        TrainingError: the disk is full or refuses; what stood there before is untouched.
    """
    temporary = folder.with_name(f"tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        for path in [*temporary.rglob("*"), temporary]:
            flush(path)
        if folder.exists():
            old = folder.with_name(f"tmp-old-{folder.name}")
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
            temporary.rename(folder)
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
        flush(folder.parent)
    # safetensors and torch have exceptions of their own for a full disk
    except (OSError, SafetensorError, RuntimeError) as error:
        if type(error) is RuntimeError and "writ" not in str(error).lower():
            raise
        shutil.rmtree(temporary, ignore_errors=True)
        raise TrainingError(
            f"{folder} could not be written: {error}. What was saved before is whole: make room on the disk, "
            "then go on with --resume."
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    temporary = path.with_name(f"tmp-{path.name}")
    try:
        temporary.write_text(text, encoding="utf-8")
        flush(temporary)
        os.replace(temporary, path)  # noqa: PTH105 - Path.replace is the same; this reads as the atomic call it is
        flush(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise TrainingError(f"{path} could not be written: {error}. Make room, or check who owns the folder.") from None


def flush(path: Path) -> None:
    """Ask the system to put a file or folder on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handle to flush for a folder
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Checkpoints:
    """The `checkpoints/` folder of a run.

    Args:
        run: the run's folder.
        keep: newest checkpoints kept; the best one is kept besides.
    """

    def __init__(self, run: Path, keep: int):
        self.run, self.folder, self.keep = run, run / "checkpoints", keep

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints there are, oldest first."""
        return sorted(int(path.name) for path in self.folder.glob("*") if path.name.isdigit())

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"{step:06d}"

    def save(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        averages: Mapping[str, Tensor],
        states: Mapping[str, dict[str, Any]],
        write_model: Callable[[Path], None],
        clips_per_step: int,
    ) -> Path:
        """Write the checkpoint after `step` steps, point `last` at it, and remove those no longer kept.

        Args:
            weights, averages: what trains, and its average; whole.
            states: of optimisers and whatever else has a `state_dict`.
            write_model: writes the averaged model into a folder, ready to generate with.
            clips_per_step: of all processes and micro-steps; the order of the clips depends on it.
        """
        state = {"step": step, "clips_per_step": clips_per_step}

        def fill(folder: Path) -> None:
            save_file(_on_cpu(weights), folder / "weights.safetensors")
            save_file(_on_cpu(averages), folder / "ema.safetensors")
            torch.save(dict(states), folder / "optimizer.pt")
            write_model(folder / "model")
            (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")

        write_whole(self.path(step), fill)
        write_text(self.run / "last", f"checkpoints/{step:06d}\n")
        best = self.best()
        for old in self.steps()[: -self.keep]:
            if old != best:  # renamed first: what has a checkpoint's name is whole
                gone = self.path(old).with_name(f"tmp-{old:06d}")
                self.path(old).rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
        return self.path(step)

    def load(
        self, step: int, weights: Mapping[str, Tensor], averages: Mapping[str, Tensor], states: Mapping[str, Any]
    ) -> None:
        """Read a checkpoint into what trains, whole or dealt out. Learning rate, weight decay and the like stay as they
        are configured.

        Raises:
            TrainingError: its weights do not fit the model of this configuration.
        """
        folder = self.path(step)
        try:
            for file, own in (("weights", weights), ("ema", averages)):
                with safe_open(folder / f"{file}.safetensors", "pt") as saved, torch.no_grad():
                    if set(saved.keys()) != own.keys():
                        raise ValueError(f"{file} are of {len(saved.keys())} tensors, and here are {len(own)}")
                    for name, value in own.items():  # one by one: a large model is not twice in memory
                        value.copy_(dealt(saved.get_tensor(name), value))
            # of what is dealt out each process reads its share alone, and the system holds the file once for all
            apart = any(isinstance(value, DTensor) for value in weights.values())
            saved = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True, mmap=apart)
            for name, state in states.items():
                groups = getattr(state, "param_groups", [])
                settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
                state.load_state_dict(dealt_state(saved[name], state))
                for group, values in zip(getattr(state, "param_groups", []), settings, strict=True):
                    group.update(values)
        except (RuntimeError, KeyError, ValueError, OSError, EOFError, SafetensorError, UnpicklingError) as error:
            raise TrainingError(
                f"The checkpoint {folder} does not fit this configuration: {error}. Resume with the run's own "
                "run.yaml, or start a new run with --init_from."
            ) from None

    def otherwise(self, step: int, clips_per_step: int) -> str:
        """What to say when a run goes on after `step` with steps of another size; empty when there is nothing."""
        file = self.path(step) / "state.json"
        before = json.loads(file.read_text(encoding="utf-8")).get("clips_per_step") if file.is_file() else None
        if before in (None, clips_per_step):
            return ""
        return (
            f"A step had {before} clips up to step {step} and has {clips_per_step} now (batch size x micro-steps x "
            "processes). The clips are put together anew, so in this epoch some come a second time and some not at "
            f"all. Give a step {before} clips again, and the run goes on exactly."
        )

    def best(self) -> int | None:
        """The step that `best` names, if its checkpoint is there."""
        pointer = self.run / "best"
        step = int(Path(pointer.read_text(encoding="utf-8").strip()).name) if pointer.is_file() else None
        return step if step in self.steps() else None

    def mark_best(self, step: int) -> None:
        """Point `best` at a checkpoint."""
        write_text(self.run / "best", f"checkpoints/{step:06d}\n")

    def sweep(self) -> None:
        """Remove what a kill left half written; nothing else is touched."""
        for old in [*self.run.glob("tmp-old-final"), *self.folder.glob("tmp-old-*")]:
            place = old.with_name(old.name.removeprefix("tmp-old-"))
            if not place.exists():  # killed between two renames: the old one is whole
                old.rename(place)
        own = ["tmp-final", "tmp-old-final", "tmp-run.yaml", "tmp-last", "tmp-best", "tmp-metrics.jsonl"]
        left = [self.run / name for name in own]
        left += [path for path in self.folder.glob("tmp-*") if re.fullmatch(r"tmp-(old-)?\d+", path.name)]
        for path in left:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _on_cpu(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in weights.items()}
