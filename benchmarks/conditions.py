"""Does a model with conditions follow each of them alone, without a caption?

Asked is a run on the demo world, such as those of configs/conditions-tiny.yaml and conditions-transformer-tiny.yaml.
For each of its conditions, videos are made with that one given and an empty prompt, and checked from their pixels:

    first_frame   colour, and place in the first frame (within a tenth of the frame)
    depth, mask   what is not background lies where it should (intersection over union at least 0.7, mean over frames)
    audio         the motion that the rhythm tells
    shape         the shape of the class
    place         where the thing is halfway (within a tenth of the frame)

Each comes from a scene of a combination that was held out of training. As a control the same videos are checked against
the next scene's condition.

    python benchmarks/conditions.py RUN [RUN ...] [--videos 64] [--scale S] [--picture FILE]
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from machine import write_result

from text2video.data.shapes import Scene, SeenThing, describe, make_clip, mask, render
from text2video.data.shapes.drawing import WHOLE
from text2video.data.shapes.signals import SIGNALS
from text2video.evaluation.metrics import rate
from text2video.families.devices import choose_device
from text2video.families.opening import model_folder, open_model
from text2video.generation import Settings, generate
from text2video.video import contact_sheet

Check = Callable[[np.ndarray, Scene], bool]
NEAR = 0.1  # frame sides
OVERLAP = 0.7


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="a run's folder, or its model")
    parser.add_argument("--videos", type=int, default=64, help="for each condition")
    parser.add_argument("--scale", type=float, help="how closely to follow the condition; else as the model does")
    parser.add_argument("--steps", type=int, help="sampling steps; else the model's own")
    parser.add_argument("--picture", type=Path, help="of videos of the first run, to be written")
    parser.add_argument("--out", type=Path, help="file of the result, in place of results/conditions.json")
    options = parser.parse_args()
    models = {run.name: measure(run, options) for run in options.runs}
    values = {"videos": options.videos, "scale": options.scale, "models": models}
    write_result("conditions", values, path=options.out)
    if options.picture:
        draw(options.runs[0], options)


def measure(run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Condition -> how often videos follow it, and how often they would by chance."""
    family, pipe = open_model(model_folder(run), choose_device("auto"))
    found: dict[str, Any] = {}
    for name in family.own_conditions(pipe):
        if name in CHECKS:
            right, control = followed(family, pipe, name, options)
            print(f"{run.name} {name:12} right {rate(right)}, by chance {rate(control).rate:.1%}", flush=True)
            found[name] = {"right": asdict(rate(right)), "by chance": asdict(rate(control))}
    return found


def followed(family: Any, pipe: Any, name: str, options: argparse.Namespace) -> tuple[list[bool], list[bool]]:
    """Whether each video follows its condition, and whether it follows the next one's."""
    scenes = [make_clip(index, split="heldout")[0] for index in range(options.videos)]
    right, control = [], []
    for index, scene in enumerate(scenes):
        _, frames = made(family, pipe, name, scene, index, options)
        right.append(CHECKS[name](frames, scene))
        control.append(CHECKS[name](frames, scenes[(index + 1) % len(scenes)]))
    return right, control


def made(
    family: Any, pipe: Any, name: str, scene: Scene, index: int, options: argparse.Namespace
) -> tuple[Any, np.ndarray]:
    """A scene's condition, and the frames of the video that is made by it alone."""
    shape = tuple(pipe.config[key] for key in ("num_frames", "height", "width"))
    if name == "first_frame":
        value: Any = render(scene, *shape)[0]
    else:
        value = SIGNALS[name](scene, shape, shape[0] / pipe.config["fps"], f"benchmark/{index}", WHOLE)
    settings = Settings(
        conditions={name: value},
        condition_scales={} if options.scale is None else {name: options.scale},
        guidance_scale=1.0,
        num_inference_steps=options.steps,
        seed=index,
    )
    (video,) = generate(family, pipe, [""], settings)
    return value, video.frames


def draw(run: Path, options: argparse.Namespace) -> None:
    """A picture of two scenes a condition that can be seen: what is given, and below it what is made."""
    family, pipe = open_model(model_folder(run), choose_device("auto"))
    rows = []
    for name in ("first_frame", "depth", "mask"):
        for index in range(2):
            scene = make_clip(index, split="heldout")[0]
            value, frames = made(family, pipe, name, scene, index, options)
            given = value[None].repeat(len(frames), 0) if name == "first_frame" else value[..., None].repeat(3, -1)
            rows += [given[::2], frames[::2]]
    contact_sheet(options.picture, [row.repeat(2, 1).repeat(2, 2) for row in rows])


def thing(frames: np.ndarray) -> SeenThing | None:
    """The one thing that a video shows."""
    things = describe(frames).things
    return things[0] if len(things) == 1 else None


def begins_as(frames: np.ndarray, scene: Scene) -> bool:
    """Colour and first place."""
    seen = thing(frames)
    return seen is not None and seen.colour == scene.things[0].colour and near(frames, scene, 0.0)


def near(frames: np.ndarray, scene: Scene, u: float) -> bool:
    """Whether the thing is where it should be at time u, 0 or 0.5."""
    number = len(frames)
    wanted = [int(value) for value in {np.floor(u * (number - 1)), np.ceil(u * (number - 1))}]
    bright = foreground(frames)[wanted]
    if not bright.any((1, 2)).all():
        return False
    height, width = bright.shape[1:]
    _, rows, columns = np.nonzero(bright)
    y, x = scene.things[0].centre(np.array([u]))[::-1]
    return bool(np.hypot((columns.mean() + 0.5) / width - x[0], (rows.mean() + 0.5) / height - y[0]) < NEAR)


def overlaps(frames: np.ndarray, scene: Scene) -> bool:
    """Whether what is not background lies where the scene's thing does."""
    found, wanted = foreground(frames), mask(scene, *frames.shape[:3]) > 0
    union = (found | wanted).sum((1, 2))
    return bool(((found & wanted).sum((1, 2)) / np.maximum(union, 1)).mean() >= OVERLAP)


def foreground(frames: np.ndarray) -> np.ndarray:
    """What is brighter than any background: bool `[T, H, W]`."""
    return frames.max(-1) > 130


def told(attribute: str) -> Check:
    """Whether an attribute of the thing is the scene's."""
    return lambda frames, scene: getattr(thing(frames), attribute, None) == getattr(scene.things[0], attribute)


CHECKS: dict[str, Check] = {
    "first_frame": begins_as,
    "depth": overlaps,
    "mask": overlaps,
    "audio": told("motion"),
    "shape": told("shape"),
    "place": lambda frames, scene: near(frames, scene, 0.5),
}


if __name__ == "__main__":
    main()
