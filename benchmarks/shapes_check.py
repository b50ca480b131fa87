"""How far the exact check of the demo world can be trusted: `python benchmarks/shapes_check.py [--clips 2000]`.

It is tried on true clips, on clips with one attribute changed, on clips made soft and noisy like generated ones, on
clips meant to fool it, and on prompts dealt out at random. Each case counts the clips that the check answers rightly.
The table is printed and written to `benchmarks/results/shapes_check.json`.
"""

import argparse
import datetime
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from text2video import video
from text2video.data import shapes
from text2video.data.shapes import SMALL, Request, Scene, check, parse, prompt
from text2video.data.shapes.things import DISTANCE, RADIUS
from text2video.data.shapes.worlds import place, random_background, random_thing
from text2video.evaluation.metrics import Rate, rate

FRAMES = 16
ALTERABLE = ("colour", "shape", "motion", "size", "speed", "background")
SEED = 31


def true_clips(clips: int, size: int, max_objects: int = 1) -> Iterator[tuple[np.ndarray, str]]:
    for index in range(clips):
        scene, caption = shapes.make_clip(index, SEED, max_objects=max_objects)
        yield shapes.render(scene, FRAMES, size, size), caption


def through_mp4(frames: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        video.write(path, frames, 8)
        return video.read(path).frames


def degraded(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a good generated video may look like: blurred by 0.7/32 of the frame, noise of 5 grey levels, brightness off
    by up to 5%, and cloudy mottling of 4 grey levels, half of which flickers."""
    t, size = frames.shape[:2]
    sigma = 0.7 * size / 32
    taps = np.arange(-int(3 * sigma + 1), int(3 * sigma + 1) + 1)
    kernel = np.exp(-(taps**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    soft = frames.astype(np.float64)
    for axis in (1, 2):
        pad = [(0, 0)] * 4
        pad[axis] = (-taps[0], taps[-1])
        padded = np.pad(soft, pad, mode="edge")
        soft = sum(k * np.take(padded, range(i, i + size), axis) for i, k in enumerate(kernel))
    clouds = rng.normal(0, 4 / np.sqrt(2), (1, 8, 8, 3)) + rng.normal(0, 4 / np.sqrt(2), (t, 8, 8, 3))
    where = np.clip((np.arange(size) + 0.5) * 8 / size - 0.5, 0, 7)
    low, part = np.minimum(where.astype(int), 6), where - np.minimum(where.astype(int), 6)
    clouds = clouds[:, low] * (1 - part)[:, None, None] + clouds[:, low + 1] * part[:, None, None]
    clouds = clouds[:, :, low] * (1 - part)[:, None] + clouds[:, :, low + 1] * part[:, None]
    soft = soft * rng.uniform(0.95, 1.05) + clouds + rng.normal(0, 5, soft.shape)
    return np.clip(soft + 0.5, 0, 255).astype(np.uint8)


def holds(scene: Scene, request: Request) -> dict[str, bool]:
    """The truth: what `check` should answer for this scene of one thing."""
    (ask,), (thing,) = request.things, scene.things
    truth = {name: getattr(thing, name) == value for name, value in vars(ask).items() if value is not None}
    if request.background is not None:
        truth["background"] = scene.background.kind == request.background
    return truth


def altered(index: int, attribute: str) -> tuple[Scene, str]:
    """A scene and a prompt that is true of it but for `attribute`, which the prompt states."""
    rng = shapes.seeded("altered", SEED, attribute, index)
    while True:
        scene = shapes.random_scene(rng)
        caption = prompt(scene, rng)
        thing, ground = scene.things[0], scene.background
        choices = {"colour": SMALL.colours, "shape": SMALL.shapes, "motion": SMALL.motions}
        choices |= {"size": RADIUS, "speed": DISTANCE, "background": SMALL.backgrounds}
        value = str(rng.choice(list(choices[attribute])))
        if attribute == "background":
            ground = random_background(rng, value)
        elif getattr(thing, attribute) is None:
            continue
        else:
            fresh = random_thing(rng, thing.colour, thing.shape, value if attribute == "motion" else thing.motion)
            kept = replace(fresh, size=fresh.size and (thing.size or fresh.size))
            kept = replace(kept, speed=fresh.speed and (thing.speed or fresh.speed))
            thing = replace(kept, **{attribute: value})
        if (thing.shape, thing.motion) == ("circle", "rotating"):
            continue
        placed = place(rng, (thing,))
        assert placed is not None
        scene = Scene(placed, ground)
        truth = holds(scene, parse(caption))
        if [name for name, right in truth.items() if not right] == [attribute]:
            return scene, caption


def fooling(kind: str, index: int, size: int) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """A video that looks right at a glance, its prompt, and the attributes that must be false."""
    rng = shapes.seeded("fooling", SEED, kind, index)
    scene = shapes.random_scene(rng)
    while scene.things[0].motion == "still":
        scene = shapes.random_scene(rng)
    thing, half = scene.things[0], FRAMES // 2

    def clip(**changes: str) -> np.ndarray:
        return shapes.render(replace(scene, things=(replace(thing, **changes),)), FRAMES, size, size)

    def other(values: object, value: str) -> str:
        return str(rng.choice([v for v in values if v != value]))  # type: ignore[attr-defined]

    everything = ("colour", "shape", "motion")
    frames = clip()
    if kind == "noise":
        return rng.integers(0, 256, frames.shape, dtype=np.uint8), prompt(scene, rng), everything
    if kind == "still noise":
        return (
            np.repeat(rng.integers(0, 256, (1, *frames.shape[1:]), dtype=np.uint8), FRAMES, 0),
            prompt(scene, rng),
            everything,
        )
    if kind == "blank":
        return np.full_like(frames, rng.integers(0, 256)), prompt(scene, rng), everything
    if kind == "filled with the colour":
        return np.broadcast_to(np.uint8(shapes.PALETTE[thing.colour]), frames.shape), prompt(scene, rng), everything
    if kind == "still":
        return np.repeat(frames[[index % FRAMES]], FRAMES, 0), prompt(scene, rng), ("motion",)
    if kind == "backwards and forwards":
        return np.concatenate([frames[::2], frames[::-2]]), prompt(scene, rng), ("motion",)
    if kind == "shuffled in time":
        return frames[rng.permutation(FRAMES)], prompt(scene, rng), ("motion",)
    if kind == "stops after a third":
        return frames[np.minimum(np.arange(FRAMES), FRAMES // 3)], prompt(scene, rng), ("motion",)
    if kind == "changes colour on the way":
        frames[half:] = clip(colour=other(SMALL.colours, thing.colour))[half:]
        return frames, prompt(scene, rng), ("colour",)
    if kind == "changes shape on the way":
        while thing.motion == "rotating":  # the other shape may be a circle
            scene = shapes.random_scene(rng)
            thing = scene.things[0]
        frames = clip()
        frames[half:] = clip(shape=other(SMALL.shapes, thing.shape))[half:]
        return frames, prompt(scene, rng), ("shape",)
    if kind == "is gone on the way":
        frames[half:] = shapes.render(replace(scene, things=()), FRAMES, size, size)[half:]
        return frames, prompt(scene, rng), everything
    assert kind == "two where one was asked"
    while len(scene.things) < 2:
        scene = shapes.random_scene(rng, max_objects=2)
    caption = prompt(replace(scene, things=scene.things[:1]), rng)
    return shapes.render(scene, FRAMES, size, size), caption, everything


FOOLING = (
    "noise",
    "still noise",
    "blank",
    "filled with the colour",
    "still",
    "backwards and forwards",
    "shuffled in time",
    "stops after a third",
    "changes colour on the way",
    "changes shape on the way",
    "is gone on the way",
    "two where one was asked",
)


def right_on_true(clips: int, size: int, change: Callable[[np.ndarray], np.ndarray], max_objects: int = 1) -> Rate:
    return rate(all(check(change(frames), text).values()) for frames, text in true_clips(clips, size, max_objects))


def right_on_degraded(clips: int, size: int) -> Rate:
    """Colour, shape and motion alone: size, speed and background are not asked of a soft clip."""
    outcomes = []
    for index, (frames, caption) in enumerate(true_clips(clips, size)):
        result = check(degraded(frames, shapes.seeded("degraded", SEED, index)), caption)
        outcomes.append(result["colour"] and result["shape"] and result["motion"])
    return rate(outcomes)


def right_on_altered(clips: int, size: int, change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Rate]:
    """The altered attribute is reported false: by attribute, and `noticed` over all of them; `others kept` counts the
    clips whose other attributes are all still reported true."""
    noticed: dict[str, list[bool]] = {name: [] for name in ALTERABLE}
    kept = []
    for index in range(clips):
        attribute = ALTERABLE[index % len(ALTERABLE)]
        scene, caption = altered(index, attribute)
        result = check(change(shapes.render(scene, FRAMES, size, size)), caption)
        noticed[attribute].append(not result.pop(attribute))
        kept.append(all(result.values()))
    whole = rate(value for values in noticed.values() for value in values)
    return {"noticed": whole, "others kept": rate(kept), **{name: rate(v) for name, v in noticed.items()}}


def right_on_fooling(clips: int, size: int) -> dict[str, Rate]:
    rates = {}
    for kind in FOOLING:
        outcomes = []
        for index in range(clips):
            frames, caption, wrong = fooling(kind, index, size)
            result = check(frames, caption)
            outcomes.append(not any(result[name] for name in wrong))
        rates[kind] = rate(outcomes)
    return rates


def right_on_shuffled(clips: int, size: int) -> dict[str, Rate]:
    """How often each attribute of another clip's prompt is said to hold (the level of chance), and how often the whole
    answer is the truth."""
    made = [shapes.make_clip(index, SEED) for index in range(clips)]
    order = shapes.seeded("shuffled", SEED).permutation(clips)
    said: dict[str, list[bool]] = {name: [] for name in ("colour", "shape", "motion")}
    exact = []
    for (scene, _), other in zip(made, order, strict=True):
        request = parse(made[other][1])
        result = check(shapes.render(scene, FRAMES, size, size), request)
        for name, values in said.items():
            values.append(result[name])
        exact.append(result == holds(scene, request))
    return {**{f"{name} said to hold": rate(values) for name, values in said.items()}, "answer exact": rate(exact)}


def milliseconds(size: int, clips: int = 50) -> float:
    made = list(true_clips(clips, size))
    start = time.perf_counter()
    for frames, caption in made:
        check(frames, caption)
    return 1000 * (time.perf_counter() - start) / clips


def measure(clips: int, size: int) -> Iterator[tuple[str, Rate]]:
    yield "true, as rendered", right_on_true(clips, size, lambda frames: frames)
    yield "true, through MP4", right_on_true(clips, size, through_mp4)
    yield "true, two things", right_on_true(clips // 4, size, lambda frames: frames, max_objects=2)
    for name, result in right_on_altered(clips, size, lambda frames: frames).items():
        yield f"altered, {name}", result
    for name, result in right_on_altered(clips, size, through_mp4).items():
        yield f"altered, through MP4, {name}", result
    yield "degraded: colour, shape, motion", right_on_degraded(clips, size)
    for name, result in right_on_fooling(clips // 10, size).items():
        yield f"fooling: {name}", result
    for name, result in right_on_shuffled(clips, size).items():
        yield f"shuffled prompts: {name}", result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "shapes_check.json")
    options = parser.parse_args()
    table: dict[str, dict] = {}
    for size in options.sizes:
        rows = {}
        for name, result in measure(options.clips, size):
            rows[name] = vars(result)
            print(f"{FRAMES}x{size}x{size}  {name:44} {result}", flush=True)
        spent = milliseconds(size)
        print(f"{FRAMES}x{size}x{size}  {'time':44} {spent:.1f} ms a video", flush=True)
        table[str(size)] = {"milliseconds a video": round(spent, 2), "rates": rows}
    report = {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python benchmarks/shapes_check.py", *sys.argv[1:]]),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "clips": options.clips,
        "frame sizes": table,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
