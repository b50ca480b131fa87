"""What `evaluate` and `demo` show of a result: a table of text, and a page with the run that led to it."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .terminal import say

if TYPE_CHECKING:
    import numpy as np

    from ..evaluation.shapes import ShapesResult


def table(result: "ShapesResult") -> list[str]:
    """The rates as lines of text."""
    lines = [f"{'attribute':<26}{'right':>12}{'rate':>9}   {'95% interval':<18}{'shuffled prompts':>16}"]
    for name, rate in result.rates.items():
        counts, interval = f"{rate.successes} of {rate.n}", f"{rate.low:.1%} to {rate.high:.1%}"
        lines.append(f"{name:<26}{counts:>12}{rate.rate:>9.1%}   {interval:<18}{result.control[name].rate:>16.1%}")
    if len(result.by_things) > 1:
        for number, rates in result.by_things.items():
            lines.append("one thing" if number == 1 else f"{number} things")
            for name, rate in rates.items():
                counts, interval = f"{rate.successes} of {rate.n}", f"{rate.low:.1%} to {rate.high:.1%}"
                lines.append(f"  {name:<24}{counts:>12}{rate.rate:>9.1%}   {interval}")
    return lines


def write_page(path: Path, result: "ShapesResult", run: Path | None, stages: dict[str, float] | None = None) -> Path:
    """The HTML report of an evaluation, with real training clips and curves where the run is at hand."""
    from ..errors import Text2VideoError
    from ..evaluation.report import write_report

    clips: list[tuple[np.ndarray, str]] = []
    try:
        clips = training_clips(run) if run else []
    except Text2VideoError as error:
        say(f"The report shows no training clips: {error}")
    return write_report(path, result, run, clips, stages, shlex.join(["text2video", *sys.argv[1:]]))


def training_clips(run: Path, count: int = 12) -> "list[tuple[np.ndarray, str]]":
    """The first clips that a run trained on, uint8 `[T, H, W, 3]` as the model saw them, and their captions."""
    from ..config import RunConfig
    from ..data.dataset import to_float
    from ..generation import to_uint8
    from ..training.build import shape_rules
    from ..training.data import open_data
    from ..training.starting import open_base

    config = RunConfig.load(run / "run.yaml").in_stages[-1].config
    config.data.max_samples = min(4 * count, config.data.max_samples or 4 * count)  # a few files are checked, not all
    data = open_data(config.data, config.seed, shape_rules(config, open_base(config))).train
    items = [data[index] for index in range(min(count, len(data)))]
    return [(to_uint8(to_float(item["video"])), item["caption"]) for item in items]
