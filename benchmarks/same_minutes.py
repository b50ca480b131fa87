"""Recipes that train for the same minutes and are asked for the same videos: what `gans` and `denoisers` share.

A short run of each recipe says how long its steps take; the minutes that were really used stand in the result. What is
finished is not done again, and what was stopped goes on.
"""

import argparse
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from text2video.config import RunConfig
from text2video.evaluation.metrics import MAIN, MAIN_ATTRIBUTES
from text2video.evaluation.shapes import evaluate_shapes
from text2video.families.devices import choose_device
from text2video.families.opening import open_model
from text2video.training.trainer import train

CONFIGS = Path(__file__).parents[1] / "configs"


def arguments(about: str | None, name: str, minutes: float) -> argparse.ArgumentParser:
    """The command line of a benchmark by its name; what it does not know are options of `text2video train`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=minutes, help="of training, for each model")
    parser.add_argument("--prompts", type=int, default=256, help="held-out prompts for each model")
    parser.add_argument("--trial", type=int, default=30, help="steps that say how long a step takes")
    parser.add_argument("--place", type=Path, default=Path("runs") / name, help="folder of the runs")
    parser.add_argument("--out", type=Path, help=f"file of the result, in place of results/{name}.json")
    return parser


def measure(
    recipe: Path, folder: Path, options: argparse.Namespace, flags: list[str], before: float = 0.0
) -> dict[str, Any]:
    """The figures of one model: trained for the minutes, less those that went before it, then checked; both once."""
    file = folder / "figures.json"
    if not file.is_file():
        steps = steps_in(recipe, folder.with_name(f"{folder.name}-trial"), options, flags, options.minutes - before)
        minutes = trained(recipe, folder, steps, flags) + before
        family, pipe = open_model(folder / "final", choose_device("auto"))
        result = evaluate_shapes(family, pipe, options.prompts, model=str(folder))
        result.save(folder / "evaluation")
        figures = {
            "steps": steps,
            "minutes": round(minutes, 2),
            "seconds_a_video": round(result.seconds / options.prompts, 4),
            "parameters": sum(result.parameters.values()),
            "rates": {name: asdict(rate) for name, rate in result.rates.items()},
            "chance": result.chance,
        }
        file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def steps_in(recipe: Path, folder: Path, options: argparse.Namespace, flags: list[str], minutes: float) -> int:
    """Steps of a recipe that fit into the minutes; found out by a short run, and remembered."""
    file = folder.with_suffix(".json")
    if not file.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        whole = trained(recipe, folder, options.trial, [*flags, "--sample_steps=0", "--val_fraction=0"])
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        seconds = [row["seconds_per_step"] for row in rows if "seconds_per_step" in row]
        usual = sorted(seconds)[len(seconds) // 2]  # the first steps take longer
        steps = max(1, round(60 * minutes / usual))
        print(f"{folder.stem}: {usual:.2f} s a step, {steps} steps; the trial took {whole:.1f} minutes", flush=True)
        file.write_text(json.dumps(steps), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def trained(recipe: Path, folder: Path, steps: int | None, flags: list[str]) -> float:
    """Train a recipe, or go on where it stood; minutes of training in all. Without steps: as many as it says."""
    own = [] if steps is None else ["--stages=[]", f"--max_steps={steps}"]  # of one size
    config = RunConfig.load(recipe, [*flags, *own, f"--output_dir={folder}"])
    file = folder / "minutes.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else 0.0
    if (folder / "final").is_dir():
        return before
    started = time.perf_counter()
    try:
        train(config, resume=True)
    finally:
        minutes = before + (time.perf_counter() - started) / 60
        if folder.is_dir():
            file.write_text(json.dumps(minutes), encoding="utf-8")
    return minutes


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Print the figures of models by name."""
    wide = max(map(len, rows))
    print(f"{'':{wide}}{'M weights':>10}{'steps':>8}{'minutes':>9}{'s/video':>9}", end="")
    print("".join(f"{name:>9}" for name in MAIN_ATTRIBUTES), f"{'all three':>10}")
    for name, row in rows.items():
        figures = f"{row['parameters'] / 1e6:10.2f}{row['steps']:8d}{row['minutes']:9.1f}{row['seconds_a_video']:9.3f}"
        rates = "".join(f"{row['rates'][each]['rate']:9.1%}" for each in MAIN_ATTRIBUTES)
        print(f"{name:{wide}}{figures}{rates} {row['rates'][MAIN]['rate']:10.1%}")
