"""Does a run in stages reach the accuracy of one at the final size alone, in less time?

For each seed two short runs on the demo world by one recipe, each with its own learning rate to its own end:

    whole    the last stage's size from the first step on, for --steps steps
    staged   four frames each of many clips first; other stages can be given among the options

Asked is whether staged is right at least as often as whole, in the mean over the seeds, and takes less time. The time
is that of the steps, with what is between them, and without building models. What is finished is not done again, and
what was stopped goes on: the same command does both.

    python benchmarks/stages.py [--recipe configs/demo.yaml] [--steps 1000] [--seeds 0 1] [OPTIONS OF TRAIN ...]
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from machine import trained_in, write_result
from once import finished, rates

from text2video.config import RunConfig
from text2video.evaluation.metrics import MAIN

DEMO = Path(__file__).parents[1] / "configs" / "demo.yaml"
STAGES = ["--stages", "{num_frames: 4, batch_size: 64, max_steps: 400, lr_schedule: constant}", "{max_steps: 400}"]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=DEMO, help="configuration of a model of the demo world")
    parser.add_argument("--steps", type=int, default=1000, help="of the run without stages")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--prompts", type=int, default=256, help="held-out prompts for each model")
    parser.add_argument("--place", type=Path, default=Path("runs/stages"), help="folder of the runs")
    parser.add_argument("--out", type=Path, help="file of the result, in place of results/stages.json")
    options, flags = parser.parse_known_args()
    seeds = {str(seed): measure(options, seed, flags) for seed in options.seeds}
    summary = {
        name: {key: float(np.mean([runs[name][key] for runs in seeds.values()])) for key in ("right", "minutes")}
        for name in ("whole", "staged")
    }
    for name, mean in summary.items():
        each = ", ".join(f"{runs[name]['right']:.1%} in {runs[name]['minutes']:.1f}" for runs in seeds.values())
        print(f"{name:7} right {mean['right']:6.1%} in {mean['minutes']:.1f} minutes: {each}")
    whole, staged = summary["whole"], summary["staged"]
    reached = staged["right"] >= whole["right"] > 0 and staged["minutes"] < whole["minutes"]
    print(f"staged reaches whole in less time: {'yes' if reached else 'no'}")
    values = {"recipe": options.recipe.name, "steps": options.steps, "prompts": options.prompts, "options": flags}
    write_result("stages", {**values, "mean": summary, "reached": reached, "seeds": seeds}, path=options.out)


def measure(options: argparse.Namespace, seed: int, flags: list[str]) -> dict[str, dict[str, Any]]:
    """Run -> its figures, of one seed."""
    place = options.place / str(seed)
    own = [*STAGES, *flags, f"--seed={seed}"]
    staged = RunConfig.load(options.recipe, [*own, f"--output_dir={place / 'staged'}"])
    last = staged.in_stages[-1].config
    whole = ["--max_steps", str(options.steps), "--num_epochs", str(options.steps), f"--output_dir={place / 'whole'}"]
    configs = {"whole": RunConfig.build(last.model_dump(mode="json"), whole), "staged": staged}
    return {name: figures(config, options.prompts) for name, config in configs.items()}


def figures(config: RunConfig, prompts: int) -> dict[str, Any]:
    """How often the model of a run is right on held-out prompts, and the minutes of its steps."""
    run = finished(config)
    found, (_, seconds) = rates(run, prompts), trained_in(run)
    return {"right": found[MAIN], "rates": found, "minutes": seconds / 60}


if __name__ == "__main__":
    main()
