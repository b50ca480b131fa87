"""Where a run says how it goes: metrics.jsonl, training.log, a progress bar, and accelerate's trackers.

`metrics.jsonl` has a line a step. Losses stay on the device until `log_steps` of them are written together, so that
logging does not make the device wait.
"""

import json
import logging
import math
import os
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..config import RunConfig
from ..errors import TrainingError
from .checkpoint import write_text

logger = logging.getLogger("text2video")


class NotANumber(TrainingError):
    """A loss or a gradient was not a number."""


def tracker_names(config: RunConfig) -> list[Any]:
    """The trackers of a run: TensorBoard, and wandb where it is installed and logged in, unless told not to."""
    names = []
    if not config.tracking.no_tensorboard and find_spec("tensorboard"):
        names.append("tensorboard")
    if not config.tracking.no_wandb and wandb_logged_in():
        names.append("wandb")
    return names


def wandb_logged_in() -> bool:
    """Whether wandb is installed and knows an account."""
    if not find_spec("wandb"):
        return False
    # Asking wandb itself would import it, which takes seconds.
    netrc = [Path.home() / name for name in (".netrc", "_netrc")]
    return bool(os.environ.get("WANDB_API_KEY")) or any(
        path.is_file() and "wandb" in path.read_text(encoding="utf-8", errors="ignore") for path in netrc
    )


class Tracker:
    """Collects a run's figures. Only the main process writes.

    Args:
        config: of the run.
        accelerator: whose trackers get the figures.
        total_steps: of the run.
        start_step: where this process begins.
        clips_per_step: over all processes.
    """

    def __init__(self, config: RunConfig, accelerator: Any, total_steps: int, start_step: int, clips_per_step: int):
        self.accelerator, self.every = accelerator, config.tracking.log_steps
        self.total_steps, self.clips_per_step = total_steps, clips_per_step
        self.path = config.output_dir / "metrics.jsonl"
        self.main = accelerator.is_main_process
        self._pending: list[tuple[int, dict[str, Any], dict[str, torch.Tensor]]] = []
        self._since, self._steps = time.perf_counter(), 0
        if not self.main:
            return
        self._cut(start_step)
        self._file = self.path.open("a", encoding="utf-8")
        self._handler = logging.FileHandler(config.output_dir / "training.log", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(self._handler)
        logger.setLevel(logging.INFO)
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total_steps, completed=start_step, note="")
        self._bar.start()

    def _cut(self, step: int) -> None:
        """Drop lines of steps after the checkpoint: they will be written again."""
        if self.path.is_file():
            lines = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            write_text(self.path, "".join(f"{line}\n" for line in lines if _step_of(line) > 0))

    def step(self, step: int, lr: float, losses: dict[str, torch.Tensor], grad_norm: torch.Tensor) -> None:
        """Note a finished step (counted from 1)."""
        self._pending.append((step, {"lr": lr}, {**losses, "train/grad_norm": grad_norm}))
        self._steps += 1
        if len(self._pending) >= self.every or step == self.total_steps:
            self.flush()

    def flush(self) -> None:
        """Write the noted steps.

        Raises:
            NotANumber: a loss was not a number.
        """
        if not self._pending:
            return
        keys = list(self._pending[0][2])
        table = torch.stack([torch.stack([tensors[key].float() for key in keys]) for _, _, tensors in self._pending])
        rows = self.accelerator.reduce(table, reduction="mean").tolist()  # one wait for the device, one message
        seconds = (time.perf_counter() - self._since) / max(self._steps, 1)
        last: dict[str, float] = {}
        for (step, values, _), row in zip(self._pending, rows, strict=True):
            last = {**values, **dict(zip(keys, row, strict=True))}
            self.write(step, last)
            # with fp16 a gradient may overflow: that step is skipped, and the scale lowered
            checked = {key: last[key] for key in keys if key != "train/grad_norm" or not self.accelerator.scaler}
            if not all(map(math.isfinite, checked.values())):
                raise NotANumber(f"The loss was not a number at step {step}.")
        step = self._pending[-1][0]
        self._pending, self._since, self._steps = [], time.perf_counter(), 0
        speed = {"seconds_per_step": seconds, "clips_per_second": self.clips_per_step / seconds, **memory()}
        self.write(step, speed)
        if self.main:
            self.accelerator.log({**last, **speed}, step=step)
            loss = last["train/loss"]
            note = f"loss {loss:.4f}  {speed['clips_per_second']:.1f} clips/s"
            self._bar.update(self._task, completed=step, note=note)
            logger.info("step %d/%d  %s  lr %.2e", step, self.total_steps, note, last["lr"])

    def write(self, step: int, values: dict[str, float]) -> None:
        """A line of metrics.jsonl."""
        if self.main:
            self._file.write(json.dumps({"step": step, **values}) + "\n")

    def validation(self, step: int, loss: float) -> None:
        """Note a validation loss."""
        self.write(step, {"val/loss": loss})
        if self.main:
            self.accelerator.log({"val/loss": loss}, step=step)
            logger.info("step %d  validation loss %.5f", step, loss)

    def videos(self, step: int, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> None:
        """Show sample videos (uint8 `[T, H, W, 3]`) as strips of frames: every tracker knows pictures."""
        if not self.main:
            return
        for tracker in self.accelerator.trackers:
            if not clips:
                continue
            strips = np.stack([np.concatenate(list(clip), axis=1) for clip in clips])  # [N, H, T * W, 3]
            if tracker.name == "tensorboard":
                tracker.log_images({"samples": strips.transpose(0, 3, 1, 2)}, step=step)
            else:
                tracker.log_images(
                    {f"samples/{i}: {p}": [s] for i, (p, s) in enumerate(zip(prompts, strips, strict=True))}, step=step
                )

    def sync(self) -> None:
        """Put what was written on the disk, before a checkpoint claims its steps."""
        self.flush()
        if self.main:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Finish the files and the bar."""
        if self.main:
            self._bar.stop()
            self._file.close()
            logger.removeHandler(self._handler)
            self._handler.close()
        for tracker in self.accelerator.trackers:  # the processes themselves go on: another stage may follow
            tracker.finish()


def memory() -> dict[str, float]:
    """Memory in GB: of this process and its loader workers, and the peak on the GPU."""
    process = psutil.Process()
    family = [process, *process.children(recursive=True)]
    used = 0
    for member in family:
        try:
            used += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    values = {"memory/ram_gb": used / 1e9}
    if torch.cuda.is_available():
        values["memory/gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return values


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return 0  # a line that a kill cut in two


def is_validated(metrics: Path, step: int) -> bool:
    """Whether metrics.jsonl has the validation loss after a step."""
    rows = map(json.loads, metrics.read_text(encoding="utf-8").splitlines()) if metrics.is_file() else ()
    return any(row["step"] == step and "val/loss" in row for row in rows)


def best_so_far(metrics: Path, first: int, step: int) -> tuple[float, int]:
    """The lowest validation loss that metrics.jsonl has after step `first` up to another, and where it was."""
    best = (float("inf"), -1)
    if metrics.is_file():
        for line in metrics.read_text(encoding="utf-8").splitlines():
            values = json.loads(line) if line.endswith("}") else {}
            if values.get("val/loss", float("nan")) < best[0] and first < values["step"] <= step:
                best = (values["val/loss"], values["step"])
    return best
