"""How far the exact check of the full demo world can be trusted: `python benchmarks/shapes_check_full.py`.

At each level, one, two or three things, it is asked for everything that a clip shows (true clips), and for all of that
but for one attribute (altered clips); both also of clips made soft and noisy like generated ones. Clips meant to fool
it and prompts dealt out at random follow, at level one. The table is printed and written to
`benchmarks/results/shapes_check_full.json`.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from machine import write_result
from shapes_check import FRAMES, SEED, degraded

from text2video.data.shapes import (
    FULL,
    Ask,
    Request,
    Scene,
    check,
    describe,
    make_clip,
    parse,
    random_scene,
    render,
    seeded,
)
from text2video.data.shapes.outlines import ROUND
from text2video.data.shapes.things import CHANGING_COLOUR, DISTANCE, RADIUS, RESIZED, UNMOVED
from text2video.evaluation.metrics import MAIN_ATTRIBUTES, Rate, rate

LEVELS = (1, 2, 3)
SIZE = 64
ALTERABLE = ("colour", "shape", "motion", "size", "speed", "becomes", "background", "relation", "count")
CHOICES = {
    "colour": FULL.colours,
    "becomes": FULL.colours,
    "shape": FULL.shapes,
    "motion": FULL.motions,
    "size": tuple(RADIUS),
    "speed": tuple(DISTANCE),
    "background": FULL.backgrounds,
    "relation": FULL.relations,
}

Change = Callable[[np.ndarray, int], np.ndarray]


def as_rendered(frames: np.ndarray, index: int) -> np.ndarray:
    return frames


def softened(frames: np.ndarray, index: int) -> np.ndarray:
    return degraded(frames, seeded("degraded", SEED, index))


def scene_of(level: int, *name: object) -> Scene:
    """A scene of exactly `level` things."""
    rng = seeded("full", SEED, level, *name)
    while True:
        scene = random_scene(rng, max_objects=level, world=FULL)
        if len(scene.things) == level:
            return scene


def request_of(scene: Scene) -> Request:
    """A prompt that says everything that a scene shows."""
    asks = tuple(Ask(t.colour, t.shape, t.motion, t.size, t.speed, t.becomes) for t in scene.things)
    return Request(asks, scene.background.kind, scene.relation)


def altered(level: int, attribute: str, index: int) -> tuple[Scene, Request]:
    """A scene, and all that it shows but for one attribute, of one thing or of the whole."""
    for trial in range(1000):
        scene = scene_of(level, attribute, index, trial)
        request = _altered(request_of(scene), attribute, seeded("altered", SEED, level, attribute, index, trial))
        if request is not None:
            return scene, request
    raise AssertionError(f"no scene of {level} things has another {attribute}")


def _altered(request: Request, attribute: str, rng: np.random.Generator) -> Request | None:
    """The request with another value of an attribute; None where it does not state it, or where the value would change
    more than that."""
    things = list(request.things)
    if attribute == "count":
        fewer = rng.random() < 0.5 and len(things) == 3
        return replace(request, things=(things[0],) * (len(things) + (-1 if fewer else 1))) if equal(request) else None
    value = str(rng.choice(CHOICES[attribute]))
    if attribute in ("background", "relation"):
        old = getattr(request, attribute)
        return replace(request, **{attribute: value}) if old not in (None, value) else None
    number = int(rng.integers(len(things)))
    thing = things[number]
    fresh = replace(thing, **{attribute: value})
    if attribute == "motion":
        fresh = replace(
            fresh, size=None if value in RESIZED else thing.size, speed=None if value in UNMOVED else thing.speed
        )
    used = {colour for other in things for colour in (other.colour, other.becomes)}
    if (
        getattr(thing, attribute) in (None, value)
        or (attribute in ("colour", "becomes") and value in used)
        or (attribute == "motion" and CHANGING_COLOUR in (value, thing.motion))
        or (fresh.shape in ROUND and fresh.motion == "rotating")
    ):
        return None
    things[number] = fresh
    return replace(request, things=tuple(things))


def equal(request: Request) -> bool:
    return len(request.things) > 1 and len(set(request.things)) == 1


def right_on_true(level: int, clips: int, change: Change = as_rendered) -> tuple[Rate, Rate]:
    """How often everything that a clip shows is said to hold, and how often colour, shape and motion of all things."""
    everything, main = [], []
    for index in range(clips):
        scene = scene_of(level, "true", index)
        result = check(change(render(scene, FRAMES, SIZE, SIZE), index), request_of(scene), FULL.name)
        everything.append(all(result.values()))
        main.append(all(v for name, v in result.items() if name.rpartition(".")[2] in MAIN_ATTRIBUTES))
    return rate(everything), rate(main)


def right_on_altered(level: int, clips: int, change: Change = as_rendered) -> dict[str, Rate]:
    """The altered attribute is reported false: by attribute, and `noticed` over all of them; `others kept` counts the
    clips whose other attributes are all still reported true (but for another count, with which all things differ)."""
    attributes = ALTERABLE if level > 1 else ALTERABLE[:-2]
    noticed: dict[str, list[bool]] = {name: [] for name in attributes}
    kept = []
    for index in range(clips):
        attribute = attributes[index % len(attributes)]
        scene, request = altered(level, attribute, index)
        result = check(change(render(scene, FRAMES, SIZE, SIZE), index), request, FULL.name)
        wrong = [name for name, right in result.items() if not right]
        noticed[attribute].append(any(name.rpartition(".")[2] == attribute for name in wrong))
        if attribute != "count":
            kept.append(all(name.rpartition(".")[2] == attribute for name in wrong))
    whole = rate(value for values in noticed.values() for value in values)
    return {"noticed": whole, "others kept": rate(kept), **{name: rate(v) for name, v in noticed.items()}}


FOOLING = (
    "noise",
    "still noise",
    "blank",
    "frozen",
    "shuffled in time",
    "stops after a third",
    "changes colour on the way",
    "changes shape on the way",
    "is gone on the way",
    "one more than was asked",
)


def fooling(kind: str, index: int) -> tuple[np.ndarray, Request, tuple[str, ...]]:
    """A video that looks right at a glance, what it is asked for, and the attributes that must be false."""
    rng = seeded("fooling full", SEED, kind, index)
    scene = random_scene(rng, world=FULL)
    while scene.things[0].motion in UNMOVED or scene.things[0].motion == "rotating":  # the other shape may be round
        scene = random_scene(rng, world=FULL)
    thing, half, request = scene.things[0], FRAMES // 2, request_of(scene)
    frames, everything = render(scene, FRAMES, SIZE, SIZE), MAIN_ATTRIBUTES
    if kind == "noise":
        return rng.integers(0, 256, frames.shape, dtype=np.uint8), request, everything
    if kind == "still noise":
        return np.repeat(rng.integers(0, 256, (1, *frames.shape[1:]), dtype=np.uint8), FRAMES, 0), request, everything
    if kind == "blank":
        return np.full_like(frames, rng.integers(0, 256)), request, everything
    if kind == "frozen":
        return np.repeat(frames[[index % FRAMES]], FRAMES, 0), request, ("motion",)
    if kind == "shuffled in time":
        return frames[rng.permutation(FRAMES)], request, ("motion",)
    if kind == "stops after a third":
        return frames[np.minimum(np.arange(FRAMES), FRAMES // 3)], request, ("motion",)
    if kind == "one more than was asked":
        more = scene_of(2, kind, index)
        return (
            render(more, FRAMES, SIZE, SIZE),
            request_of(replace(more, things=more.things[:1], relation=None)),
            everything,
        )
    if kind == "is gone on the way":
        after, wrong = replace(scene, things=()), everything
    else:
        attribute = "colour" if kind == "changes colour on the way" else "shape"
        value = str(rng.choice([v for v in CHOICES[attribute] if v != getattr(thing, attribute)]))
        after, wrong = replace(scene, things=(replace(thing, **{attribute: value}),)), (attribute,)
    frames[half:] = render(after, FRAMES, SIZE, SIZE)[half:]
    return frames, request, wrong


def right_on_fooling(clips: int) -> dict[str, Rate]:
    rates = {}
    for kind in FOOLING:
        outcomes = []
        for index in range(clips):
            frames, request, wrong = fooling(kind, index)
            result = check(frames, request, FULL.name)
            outcomes.append(not any(result[name] for name in wrong))
        rates[kind] = rate(outcomes)
    return rates


def right_on_shuffled(clips: int) -> dict[str, Rate]:
    """How often each attribute of another clip's prompt is said to hold (the level of chance), and how often the whole
    answer is the truth."""
    made = [make_clip(index, SEED, world=FULL.name) for index in range(clips)]
    order = seeded("shuffled full", SEED).permutation(clips)
    said: dict[str, list[bool]] = {name: [] for name in MAIN_ATTRIBUTES}
    exact = []
    for (scene, _), other in zip(made, order, strict=True):
        request = parse(made[other][1])
        result = check(render(scene, FRAMES, SIZE, SIZE), request, FULL.name)
        for name, values in said.items():
            values.append(result[name])
        exact.append(result == _truth(scene, request))
    return {**{f"{name} said to hold": rate(values) for name, values in said.items()}, "answer exact": rate(exact)}


def _truth(scene: Scene, request: Request) -> dict[str, bool]:
    (thing,), (ask,) = scene.things, request.things
    truth = {name: getattr(thing, name) == value for name, value in vars(ask).items() if value is not None}
    if ask.becomes is None and thing.becomes is not None:
        truth["colour"] = False  # it does not keep it
    if request.background is not None:
        truth["background"] = scene.background.kind == request.background
    return truth


def measured_level(level: int, clips: int) -> dict[str, Rate]:
    rows = {}
    for manner, change, n in (("", as_rendered, clips), ("degraded, ", softened, clips // 10)):
        everything, main = right_on_true(level, n, change)
        rows |= {f"{manner}true": everything, f"{manner}true: colour, shape, motion": main}
        rows |= {f"{manner}altered: {name}": found for name, found in right_on_altered(level, n, change).items()}
    return {f"level {level}, {name}": found for name, found in rows.items()}


def measured_at_level_one(clips: int) -> dict[str, Rate]:
    rows = {f"fooling: {name}": found for name, found in right_on_fooling(clips // 10).items()}
    return rows | {f"shuffled prompts: {name}": found for name, found in right_on_shuffled(clips // 2).items()}


def milliseconds(level: int, clips: int = 50) -> float:
    """Processor time of one check."""
    made = [render(scene_of(level, "time", index), FRAMES, SIZE, SIZE) for index in range(clips)]
    describe(made[0], FULL.name)  # draws the ideal pictures
    start = time.process_time()
    for frames in made:
        describe(frames, FULL.name)
    return round(1000 * (time.process_time() - start) / clips, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, help="a file other than benchmarks/results/shapes_check_full.json")
    options = parser.parse_args()
    rows = {}
    with ProcessPoolExecutor(options.workers) as pool:
        pending = [pool.submit(measured_level, level, options.clips) for level in LEVELS]
        pending.append(pool.submit(measured_at_level_one, options.clips))
        for done in pending:
            for name, found in done.result().items():
                rows[name] = vars(found)
                print(f"{name:50} {found}", flush=True)
    spent = {f"level {level}": milliseconds(level) for level in LEVELS}
    print(f"milliseconds a video of {FRAMES}x{SIZE}x{SIZE}: {spent}")
    values = {"clips": options.clips, "rates": rows, "milliseconds a video": spent}
    write_result("shapes_check_full", values, packages=("numpy",), path=options.output)


if __name__ == "__main__":
    main()
