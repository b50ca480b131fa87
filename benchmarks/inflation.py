"""Does a model of videos need fewer steps when it begins with a model of images?

For each seed three runs on the demo world, each with its own learning rate to its own end:

    scratch   clips from nothing, all the steps
    images    single frames, from nothing, for --image_steps steps
    inflated  that model, inflated, on clips, for what images leave of half of the steps

A step on images has as many frames as one on clips, so it counts as one; counted as one clip's step for each frame that
it has, it is the same. Asked is whether inflated is right at least as often as scratch, in the mean over the seeds.
What is finished is not done again: stopped, the same command goes on.

    python benchmarks/inflation.py [--steps 1000] [--image_steps 200] [--seeds 0 1 2] [OPTIONS OF TRAIN ...]
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import write_result
from PIL import Image

from text2video.config import RunConfig
from text2video.data.shapes import make_clip, render
from text2video.evaluation.metrics import MAIN
from text2video.evaluation.shapes import evaluate_shapes
from text2video.families.devices import choose_device
from text2video.families.opening import open_model
from text2video.training.trainer import train

CONFIGS = Path(__file__).parents[1] / "configs"
FRAMES = 16  # of a clip


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of the model from nothing")
    parser.add_argument("--image_steps", type=int, default=200, help="of the model of images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pictures", type=int, default=16000, help="single frames to train on")
    parser.add_argument("--prompts", type=int, default=256, help="held-out prompts for each model")
    parser.add_argument("--place", type=Path, default=Path("runs/inflation"), help="folder of the runs")
    parser.add_argument("--out", type=Path, help="file of the result, in place of results/inflation.json")
    options, flags = parser.parse_known_args()
    if not 0 < options.image_steps < options.steps // 2:
        parser.error("--image_steps has to leave some of half of the steps for clips")
    seeds = {str(seed): measure(options, seed, flags) for seed in options.seeds}
    summary: dict[str, float] = {}
    for name in next(iter(seeds.values())):
        rates = [runs[name]["right"] for runs in seeds.values()]
        summary[name] = float(np.mean(rates))
        print(f"{name:9} right {summary[name]:6.1%}: {' '.join(format(rate, '.1%') for rate in rates)}")
    reached = summary["inflated"] >= summary["scratch"] > 0
    print(f"inflated reaches scratch in half of the steps: {'yes' if reached else 'no'}")
    values = {"steps": options.steps, "image_steps": options.image_steps, "prompts": options.prompts, "options": flags}
    write_result("inflation", {**values, "right": summary, "reached": reached, "seeds": seeds}, path=options.out)


def measure(options: argparse.Namespace, seed: int, flags: list[str]) -> dict[str, dict[str, Any]]:
    """Run -> its figures, of the runs on clips of one seed."""
    place, rest = options.place / str(seed), options.steps // 2 - options.image_steps
    frames = pictures(options.place / "pictures", options.pictures)
    images, videos = CONFIGS / "images-tiny.yaml", CONFIGS / "videos-tiny.yaml"
    own = [*flags, f"--seed={seed}"]
    scratch = trained(videos, place / "scratch", options.steps, own)
    first = trained(images, place / "images", options.image_steps, [f"--data_dir={frames}", *own])
    inflated = trained(videos, place / "inflated", rest, [*own, f"--init_from={first}"])
    counts = count(first, options.image_steps, inflated, rest)
    return {
        "scratch": accuracy(scratch, options.prompts) | {"steps": options.steps},
        "inflated": accuracy(inflated, options.prompts) | counts,
    }


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


def trained(recipe: Path, folder: Path, steps: int, flags: list[str]) -> Path:
    """The folder of the finished model of a run, which goes on where it stood; its minutes, if it never stopped."""
    config = RunConfig.load(recipe, [*flags, f"--max_steps={steps}", f"--output_dir={folder}"])
    if not (folder / "final").is_dir():
        print(f"{folder}: {steps} steps", flush=True)
        new, started = not folder.exists(), time.perf_counter()
        train(config, resume=True)
        if new:
            minutes = (time.perf_counter() - started) / 60
            (folder / "minutes.json").write_text(f"{minutes:.2f}", encoding="utf-8")
    return folder / "final"


def count(images: Path, image_steps: int, videos: Path, video_steps: int) -> dict[str, Any]:
    """Steps in all, and how many steps on clips have as many frames."""
    batches = [RunConfig.load(model.parent / "run.yaml").train.batch_size for model in (images, videos)]
    by_frames = image_steps * batches[0] / (batches[1] * FRAMES) + video_steps
    return {"steps": image_steps + video_steps, "steps_by_frames": by_frames}


def accuracy(model: Path, prompts: int) -> dict[str, Any]:
    """How often a model is right on held-out prompts; measured once."""
    file = model.parent / "accuracy.json"
    if not file.is_file():
        family, pipe = open_model(model, choose_device("auto"))
        result = evaluate_shapes(family, pipe, prompts, batch_size=16, model=str(model))
        file.write_text(json.dumps({name: rate.rate for name, rate in result.rates.items()}), encoding="utf-8")
        result.save(model.parent / "evaluation")
    rates = json.loads(file.read_text(encoding="utf-8"))
    minutes = model.parent / "minutes.json"
    took = float(minutes.read_text(encoding="utf-8")) if minutes.is_file() else None
    return {"right": rates[MAIN], "rates": rates, "minutes": took}


if __name__ == "__main__":
    main()
