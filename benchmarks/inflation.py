"""Does a model of videos need fewer steps when it begins with a model of images?

For each seed runs on the demo world, each with its own learning rate to its own end:

    scratch   clips of the whole length from nothing, for --steps steps
    images    single frames, from nothing, for --image_steps steps
    inflated  that model, inflated, on clips by the stages of configs/videos-tiny.yaml
    staged    with --control: clips from nothing by those stages, the first of them longer by the steps of images

A step has as many frames in all of them, so it counts as one. Asked is whether inflated is right at least as often as
scratch, in the mean over the seeds, after at most half of the steps, those on images counted; staged says what of that
is the stages' alone. What is finished is not done again: stopped, the same command goes on.

    python benchmarks/inflation.py [--steps 2400] [--image_steps 100] [--seeds 0 1 2] [--control] [OPTIONS OF TRAIN ...]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from machine import write_result
from once import finished, rates
from PIL import Image

from text2video.config import RunConfig
from text2video.data.shapes import make_clip, render
from text2video.evaluation.metrics import MAIN

CONFIGS = Path(__file__).parents[1] / "configs"
VIDEOS = CONFIGS / "videos-tiny.yaml"
FRAMES = 16  # of a clip


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2400, help="of the model from nothing")
    parser.add_argument("--control", action="store_true", help="measure staged too")
    parser.add_argument("--image_steps", type=int, default=100, help="of the model of images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pictures", type=int, default=16000, help="single frames to train on")
    parser.add_argument("--prompts", type=int, default=256, help="held-out prompts for each model")
    parser.add_argument("--place", type=Path, default=Path("runs/inflation"), help="folder of the runs")
    parser.add_argument("--out", type=Path, help="file of the result, in place of results/inflation.json")
    options, flags = parser.parse_known_args()
    seeds = {str(seed): measure(options, seed, flags) for seed in options.seeds}
    summary: dict[str, float] = {}
    for name in next(iter(seeds.values())):
        each = [runs[name]["right"] for runs in seeds.values()]
        summary[name] = float(np.mean(each))
        print(f"{name:9} right {summary[name]:6.1%}: {' '.join(format(rate, '.1%') for rate in each)}")
    (steps,) = {runs["inflated"]["steps"] for runs in seeds.values()}
    reached = summary["inflated"] >= summary["scratch"] > 0 and 2 * steps <= options.steps
    print(f"inflated reaches scratch in half of the steps: {'yes' if reached else 'no'}")
    values = {"steps": options.steps, "image_steps": options.image_steps, "prompts": options.prompts, "options": flags}
    write_result("inflation", {**values, "right": summary, "reached": reached, "seeds": seeds}, path=options.out)


def measure(options: argparse.Namespace, seed: int, flags: list[str]) -> dict[str, dict[str, Any]]:
    """Run -> its figures, of the runs on clips of one seed."""
    place = options.place / str(seed)
    frames = pictures(options.place / "pictures", options.pictures)
    own = [*flags, f"--seed={seed}"]
    whole = ["--stages=[]", f"--max_steps={options.steps}"]
    images = [f"--data_dir={frames}", "--stages=[]", f"--max_steps={options.image_steps}"]
    first = trained(CONFIGS / "images-tiny.yaml", place / "images", [*own, *images])
    runs = {"scratch": [*own, *whole], "inflated": [*own, f"--init_from={first}"]}
    if options.control:
        runs["staged"] = longer(own, options)
    found = {name: accuracy(trained(VIDEOS, place / name, given), options.prompts) for name, given in runs.items()}
    found["inflated"]["steps"] += options.image_steps
    return found


def longer(flags: list[str], options: argparse.Namespace) -> list[str]:
    """Options of a run by the recipe's stages, of which the first is longer by the steps of images."""
    first, *others = RunConfig.load(VIDEOS, flags).stages
    stages = [first | {"max_steps": first["max_steps"] + options.image_steps}, *others]
    return [*flags, "--stages", *map(json.dumps, stages)]


def pictures(folder: Path, number: int) -> Path:
    """A folder of single frames from anywhere in clips of the demo world, with the clips' captions."""
    done = folder / "done"
    if not done.is_file() or done.read_text(encoding="utf-8") != str(number):
        for part in ("videos", "captions"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            scene, caption = make_clip(index, seed=0)
            frame = render(scene, FRAMES, 32, 32)[np.random.default_rng(index).integers(FRAMES)]
            Image.fromarray(frame).save(folder / "videos" / f"{index:06d}.png")
            (folder / "captions" / f"{index:06d}.txt").write_text(caption + "\n", encoding="utf-8")
        done.write_text(str(number), encoding="utf-8")
    return folder


def trained(recipe: Path, folder: Path, flags: list[str]) -> Path:
    """The folder of a recipe's finished run."""
    return finished(RunConfig.load(recipe, [*flags, f"--output_dir={folder}"]))


def accuracy(run: Path, prompts: int) -> dict[str, Any]:
    """How often a run's model is right on held-out prompts, and its steps."""
    found, last = rates(run, prompts), RunConfig.load(run / "run.yaml").in_stages[-1]
    return {"right": found[MAIN], "rates": found, "steps": last.run_steps or last.config.train.max_steps}


if __name__ == "__main__":
    main()
