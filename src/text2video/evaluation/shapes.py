"""Evaluation on the demo world: prompts of combinations never trained, one video each, checked from its pixels.

Every video counts: prompt i is the caption of scene i of the split, and its video has the seed `seed + i`. As a control
the same videos are checked against each other's prompts, where only chance agrees.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import video
from ..data.clips import write_file
from ..data.shapes import Split, Wording, WorldName, check, make_clip, parse, seeded
from ..errors import Text2VideoError, UsageError
from ..families.base import Family
from ..generation import Generated, Settings, generate
from .metrics import ALL, MAIN, MAIN_ATTRIBUTES, Rate, summarise

SHOWN = 24  # videos kept for a report or a contact sheet: the first ones, whatever they show
_ORDER = (*MAIN_ATTRIBUTES, "becomes", "size", "speed", "background", "relation", "count", MAIN, ALL)


@dataclass(frozen=True)
class Row:
    """One prompt, and what the check says of its video."""

    prompt: str
    seed: int
    checks: dict[str, bool]  # attribute -> right, for every attribute that the prompt states
    right: bool  # colour, shape and motion of all that it asks for


@dataclass(frozen=True)
class ShapesResult:
    """How often a model shows what a prompt asks for. `rates` and `control` are the tables of `summarise`."""

    model: str
    split: str
    rates: dict[str, Rate]
    control: dict[str, Rate]  # of the same videos with shuffled prompts
    chance: dict[str, float]  # what the control comes to if every video is right; empty where there are two things
    rows: list[Row]
    shown: list[Generated]  # the first videos
    settings: dict[str, Any]  # as used: sampler, num_inference_steps, guidance_scale ...
    parameters: dict[str, int]  # of each part that was trained
    seconds: float  # sampling and checking

    @property
    def accuracy(self) -> Rate:
        """Colour, shape and motion all right."""
        return self.rates[MAIN]

    @property
    def by_things(self) -> dict[int, dict[str, Rate]]:
        """Number of things that a prompt asks for -> the rates of whole videos, `MAIN` and `ALL`."""
        groups: dict[int, list[dict[str, bool]]] = {}
        for row in self.rows:
            groups.setdefault(len(parse(row.prompt).things), []).append(row.checks)
        tables = {number: summarise(groups[number]) for number in sorted(groups)}
        return {number: {name: table[name] for name in (MAIN, ALL)} for number, table in tables.items()}

    def save(self, folder: Path) -> list[Path]:
        """Write `evaluation.json`, with every prompt's outcome, and `sheet.png`, the first videos as rows of frames.

        Raises:
            Text2VideoError: the folder cannot be written.
        """
        tables: dict[str, Any] = {"rates": self.rates, "control": self.control, "by_things": self.by_things}
        plain = ("model", "split", "settings", "parameters", "seconds", "chance")
        content = {name: getattr(self, name) for name in plain} | tables | {"prompts": self.rows}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_file(folder / "evaluation.json", json.dumps(content, indent=1, default=asdict) + "\n")
        except OSError as error:
            raise Text2VideoError(
                f"The evaluation could not be written to {folder}: {error.strerror or error}. "
                "Make room, or choose another --output_dir."
            ) from None
        video.contact_sheet(folder / "sheet.png", [one.frames for one in self.shown])
        return [folder / "evaluation.json", folder / "sheet.png"]


def heldout_prompts(n: int, seed: int = 0, max_objects: int = 1) -> list[str]:
    """Captions of the first `n` scenes of held-out (colour, shape, motion) triples in the demo world of a seed."""
    return split_prompts("heldout", n, seed, max_objects)


def split_prompts(
    split: Split,
    n: int,
    seed: int = 0,
    max_objects: int = 1,
    world: WorldName = "small",
    wording: Wording = "train",
) -> list[str]:
    """Captions of the first `n` scenes of a split. Raises DataError for what the world does not hold."""
    return [make_clip(index, seed, split, max_objects, world=world, wording=wording)[1] for index in range(n)]


def evaluate_shapes(
    family: Family,
    pipe: Any,
    n: int = 256,
    settings: Settings | None = None,
    split: Split = "heldout",
    max_objects: int = 1,
    batch_size: int = 1,
    model: str = "",
    on_progress: Callable[[int, int], None] | None = None,
    world: WorldName = "small",
    wording: Wording = "train",
) -> ShapesResult:
    """Sample each of `n` prompts once, by the path of every other caller, and check every video.

    Args:
        settings: its seed is that of the first video, and of the world that the prompts are from.
        max_objects: things in a scene, at most: 1 or 2, in the world full 3.
        batch_size: videos sampled together.
        model: where the pipeline came from.
        on_progress: called with (videos done, n).
        world: the demo world that the prompts are from.
        wording: heldout: sentence patterns that were never trained, of the world full.

    Raises:
        UsageError: fewer than two prompts, or a size or sampler that the model cannot do.
        DataError: the world holds fewer things, or no wordings out.
    """
    if n < 2:
        raise UsageError(f"num_prompts is {n}. Give at least 2: the control checks videos against other prompts.")
    settings = settings or Settings()
    started = time.perf_counter()
    prompts = split_prompts(split, n, settings.seed, max_objects, world, wording)
    others = shuffled(prompts, settings.seed)
    rows: list[Row] = []
    control, shown = [], []
    for one in generate(family, pipe, prompts, settings, model, batch_size=batch_size):
        checks = check(one.frames, one.prompt, world)
        control.append(check(one.frames, others[len(rows)], world))
        rows.append(Row(one.prompt, one.seed, checks, is_right(checks)))
        if len(shown) < SHOWN:
            shown.append(one)
        if on_progress:
            on_progress(len(rows), n)
    used = asdict(shown[0].settings) | {"max_objects": max_objects, "world": world, "wording": wording}
    used["batch_size"] = batch_size
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in family.trainable(pipe).items()}
    rates, baseline = _table(row.checks for row in rows), _table(control)
    seconds = time.perf_counter() - started
    return ShapesResult(
        model, split, rates, baseline, chance(prompts), rows, shown, used, parameters, round(seconds, 3)
    )


def _table(checks: Iterable[dict[str, bool]]) -> dict[str, Rate]:
    rates = summarise(checks)
    return {name: rates[name] for name in _ORDER if name in rates}


def is_right(checks: dict[str, bool]) -> bool:
    """Whether colour, shape and motion of everything asked for are right."""
    return all(right for key, right in checks.items() if key.rpartition(".")[2] in MAIN_ATTRIBUTES)


def shuffled(prompts: list[str], seed: int = 0) -> list[str]:
    """The prompts in another order, none in its own place."""
    order = seeded("shuffled prompts", seed).permutation(len(prompts))
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)  # each gets its neighbour's in a random round
    return [prompts[index] for index in others]


def chance(prompts: Sequence[str]) -> dict[str, float]:
    """How often two different prompts of a list agree; empty if any asks for two things."""
    asked = [parse(prompt).things for prompt in prompts]
    if any(len(things) > 1 for things in asked):
        return {}
    values = {name: [getattr(thing, name) for (thing,) in asked] for name in MAIN_ATTRIBUTES}
    values[MAIN] = list(zip(*values.values(), strict=True))
    pairs = len(prompts) * (len(prompts) - 1)
    return {name: sum(c * (c - 1) for c in Counter(each).values()) / pairs for name, each in values.items()}
