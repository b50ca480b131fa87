"""Does the model in the package learn a new word from ten clips, and keep what it knew?

Runs the commands of docs/moving-shapes.md in a folder: the clips are made, the model is trained further, and asked for
the new word and for what it knew, as it was asked before. What is finished is not done again.

    python benchmarks/new_word.py [--place runs/new_word]
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import trained_in, write_result

from text2video.evaluation.metrics import MAIN, MAIN_ATTRIBUTES

ROOT = Path(__file__).parents[1]
PAGE, SECTION = ROOT / "docs" / "moving-shapes.md", "## Teach it a new word"
BEFORE = "text2video evaluate --num_prompts 100 --output_dir checked/before"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path("runs/new_word"), help="folder of all that is made")
    parser.add_argument("--out", type=Path, help="file of the result, in place of results/new_word.json")
    options = parser.parse_args()
    place = options.place
    shutil.copytree(ROOT / "configs", place / "configs", dirs_exist_ok=True)
    block = PAGE.read_text(encoding="utf-8").split(SECTION)[1].split("```")[1]
    for number, line in enumerate([*block.splitlines()[1:], BEFORE], 1):
        mark = place / f"done-{number}"
        if not mark.exists():
            print(line, flush=True)
            subprocess.run([sys.executable, "-m", *shlex.split(line)], cwd=place, check=True)
            mark.touch()
    steps, seconds = trained_in(place / "runs" / "new-word")
    rates = {name: asked(place / "checked" / name) for name in ("moons", "known", "before")}
    for name, found in rates.items():
        print(f"{name:8}", "  ".join(f"{row} {rate['rate']:.1%}" for row, rate in found.items()))
    write_result("new_word", {"steps": steps, "seconds": round(seconds), "rates": rates}, path=options.out)


def asked(folder: Path) -> dict[str, dict[str, Any]]:
    """The rates of an evaluation that matter here."""
    found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["rates"]
    return {name: found[name] for name in (*MAIN_ATTRIBUTES, MAIN)}


if __name__ == "__main__":
    main()
