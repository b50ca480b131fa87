"""What did diffusion gain over the GANs before it? The same data, the same minutes, the same check.

Trains VGAN, MoCoGAN, DVD-GAN and the demo's diffusion model on the demo world, each for as many steps as fit into the
minutes, and asks all of them for videos of combinations that were never trained. A short run of each says how long its
steps take; the minutes that were really used stand in the table. A GAN whose colours are not right at least three times
as often as by chance counts as not trained. What is finished is not done again: stopped, the same command goes on.

    python benchmarks/gans.py [--minutes 30] [--prompts 256] [OPTIONS OF TRAIN ...]
"""

import argparse
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import write_result

from text2video.config import RunConfig
from text2video.evaluation.metrics import MAIN, MAIN_ATTRIBUTES
from text2video.evaluation.shapes import evaluate_shapes
from text2video.families.devices import choose_device
from text2video.families.opening import open_model
from text2video.training.trainer import train

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = {
    "VGAN": "vgan-tiny.yaml",
    "MoCoGAN": "mocogan-tiny.yaml",
    "DVD-GAN": "dvdgan-tiny.yaml",
    "diffusion": "demo.yaml",
}
SAME = ("shapes", "num_frames", "frame_size")  # what all recipes have to say alike of their data
TIMES_CHANCE = 3


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="of training, for each model")
    parser.add_argument("--prompts", type=int, default=256, help="held-out prompts for each model")
    parser.add_argument("--trial", type=int, default=30, help="steps that say how long a step takes")
    parser.add_argument("--place", type=Path, default=Path("runs/gans"), help="folder of the runs")
    parser.add_argument("--out", type=Path, help="file of the result, in place of results/gans.json")
    options, flags = parser.parse_known_args()
    configs = {name: RunConfig.load(CONFIGS / recipe, flags).data for name, recipe in RECIPES.items()}
    alike = [{field: getattr(data, field) for field in SAME} for data in configs.values()]
    if any(data != alike[0] for data in alike):
        parser.error("the recipes are not of the same data")
    rows = {name: measure(CONFIGS / recipe, options, flags) for name, recipe in RECIPES.items()}
    print(f"{'':10}{'M weights':>10}{'steps':>8}{'minutes':>9}{'s/video':>9}", end="")
    print("".join(f"{name:>9}" for name in MAIN_ATTRIBUTES), f"{'all three':>10}  trained")
    for name, row in rows.items():
        figures = f"{row['parameters'] / 1e6:10.2f}{row['steps']:8d}{row['minutes']:9.1f}{row['seconds_a_video']:9.3f}"
        rates = "".join(f"{row['rates'][each]['rate']:9.1%}" for each in MAIN_ATTRIBUTES)
        print(f"{name:10}{figures}{rates} {row['rates'][MAIN]['rate']:10.1%}  {'yes' if row['trained'] else 'NO'}")
    values = {"minutes": options.minutes, "prompts": options.prompts, "options": flags}
    write_result("gans", {**values, "times_chance": TIMES_CHANCE, "models": rows}, path=options.out)


def measure(recipe: Path, options: argparse.Namespace, flags: list[str]) -> dict[str, Any]:
    """The figures of one model: trained for the minutes, then checked; both once."""
    folder = options.place / recipe.stem
    file = folder / "figures.json"
    if not file.is_file():
        steps = steps_in(recipe, folder.with_name(f"{folder.name}-trial"), options, flags)
        minutes = trained(recipe, folder, steps, flags)
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
            "trained": result.rates["colour"].rate >= TIMES_CHANCE * result.chance["colour"],
        }
        file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def steps_in(recipe: Path, folder: Path, options: argparse.Namespace, flags: list[str]) -> int:
    """Steps of a recipe that fit into the minutes; found out by a short run, and remembered."""
    file = folder.with_suffix(".json")
    if not file.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        whole = trained(recipe, folder, options.trial, [*flags, "--sample_steps=0", "--val_fraction=0"])
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        seconds = [row["seconds_per_step"] for row in rows if "seconds_per_step" in row]
        usual = sorted(seconds)[len(seconds) // 2]  # the first steps take longer
        steps = max(1, round(60 * options.minutes / usual))
        print(f"{recipe.stem}: {usual:.2f} s a step, {steps} steps; the trial took {whole:.1f} minutes", flush=True)
        file.write_text(json.dumps(steps), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def trained(recipe: Path, folder: Path, steps: int, flags: list[str]) -> float:
    """Train a recipe, or go on where it stood; minutes of training in all."""
    config = RunConfig.load(recipe, [*flags, f"--max_steps={steps}", f"--output_dir={folder}"])
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


if __name__ == "__main__":
    main()
