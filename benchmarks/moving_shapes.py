"""How good and how fast is the model that comes with the package?

Times one video: the whole command with the start of the process, and the call alone once the model is open. Then
makes one video of each held-out prompt of the small demo world, and checks all of them exactly: first prompts of one
thing, then a third as many of one or two.

    python benchmarks/moving_shapes.py [--model moving-shapes] [--prompts 300] [--batch_size 10]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from machine import write_result

from text2video import video
from text2video.evaluation.metrics import ALL, MAIN
from text2video.evaluation.shapes import evaluate_shapes
from text2video.families.devices import choose_device
from text2video.families.opening import model_folder, open_model
from text2video.generation import Settings, generate

PROMPT = "a small red circle glides up and a large blue square does not move"
TURNS = 5


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="moving-shapes")
    parser.add_argument("--prompts", type=int, default=300, help="of one thing")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts' scenes, and of the first video")
    parser.add_argument("--batch_size", type=int, default=10, help="videos sampled together, while none is timed")
    parser.add_argument("--picture", type=Path, help="PNG of the first eight videos")
    parser.add_argument("--out", type=Path, help="file of the result, in place of results/moving_shapes.json")
    options = parser.parse_args()
    times = timed(options.model)
    print(f"one video: {times['command']:.1f} s with the start, {times['open']:.2f} s once open", flush=True)
    family, pipe = open_model(model_folder(options.model), choose_device("auto"))
    one, some = (
        evaluate_shapes(family, pipe, n, Settings(seed=options.seed), max_objects=most, batch_size=options.batch_size)
        for most, n in ((1, options.prompts), (2, options.prompts // 3))
    )
    if options.picture:
        video.contact_sheet(options.picture, [made.frames for made in one.shown[:8]])
        print(*(row.prompt for row in one.rows[:8]), sep="\n")
    tables = {"one thing": one.rates, "two things": some.by_things[2]}
    for name, table in tables.items():
        print(f"{name}: {MAIN} {table[MAIN]}; {ALL} {table[ALL]}", flush=True)
    checked = {name: {row: asdict(rate) for row, rate in table.items()} for name, table in tables.items()}
    values = {"prompts": options.prompts, "seed": options.seed, "settings": one.settings}
    write_result("moving_shapes", {**values, "seconds": times, "checked": checked}, path=options.out)


def timed(model: str) -> dict[str, float]:
    """Seconds of one video: the median of whole commands, and of calls once the model is open."""
    commands, calls = [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(TURNS):
            line = ["-m", "text2video", "generate", "--model", model, "--prompt", PROMPT, "--seed", str(turn)]
            started = time.perf_counter()
            subprocess.run([sys.executable, *line, "--output_dir", folder], check=True, capture_output=True)
            commands.append(time.perf_counter() - started)
    family, pipe = open_model(model_folder(model), choose_device("auto"))
    for turn in range(TURNS + 1):
        started = time.perf_counter()
        list(generate(family, pipe, [PROMPT], Settings(seed=turn), model))
        calls.append(time.perf_counter() - started)
    return {"command": statistics.median(commands), "open": statistics.median(calls[1:])}


if __name__ == "__main__":
    main()
