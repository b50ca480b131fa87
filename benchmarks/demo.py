"""How good is the demo's model, and how long did it train? Gathered from its run, which has both:

    text2video train configs/demo.yaml
    text2video evaluate --model runs/demo
    python benchmarks/demo.py [runs/demo]

`text2video demo` does the first two by itself, and is another way to the same files.
"""

import argparse
import json
from pathlib import Path

from machine import trained_in, write_result

from text2video.data.shapes import parse


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"), help="folder of the run")
    parser.add_argument("--out", type=Path, help="file of the result, in place of results/demo.json")
    options = parser.parse_args()
    found = json.loads((options.run / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    kept = {name: found[name] for name in ("split", "settings", "parameters", "rates", "control")}
    steps, seconds = trained_in(options.run)
    right: dict[str, list[bool]] = {}
    for row in found["prompts"]:
        right.setdefault(parse(row["prompt"]).things[0].motion, []).append(row["right"])
    kept["right_by_motion"] = {motion: [sum(each), len(each)] for motion, each in sorted(right.items())}
    values = {"steps": steps, "training_seconds": seconds, "checking_seconds": round(found["seconds"])}
    write_result("demo", values | kept, path=options.out)


if __name__ == "__main__":
    main()
