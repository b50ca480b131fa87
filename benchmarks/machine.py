"""What every result says of where it was measured, the file it is written to, and how long a run took."""

import datetime
import json
import os
import platform
import shlex
import sys
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """The processor's name and the number of cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name}, {cores} cores"


def write_result(
    name: str,
    values: dict[str, Any],
    packages: tuple[str, ...] = ("torch", "diffusers", "av"),
    path: Path | None = None,
) -> Path:
    """Write `results/NAME.json`, or the file that is given: date, machine, versions, command, then the values."""
    header = {
        "date": datetime.date.today().isoformat(),
        "machine": processor(),
        "system": platform.platform(terse=True),
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
        "command": f"python benchmarks/{name}.py {shlex.join(map(_outside, sys.argv[1:]))}".strip(),
    }
    path = path or RESULTS / f"{name}.json"
    path.write_text(json.dumps(header | values, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path.relative_to(RESULTS.parents[1]) if path.is_relative_to(RESULTS) else path}")
    return path


def _outside(argument: str) -> str:
    # where somebody keeps his data is nobody's business
    return Path(argument).name if Path(argument).is_absolute() else argument


def trained_in(run: Path) -> tuple[int, float]:
    """The steps of a run, and the seconds that they took, over all of its parts."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    timed = [row for row in map(json.loads, lines) if "seconds_per_step" in row]
    ends = [0, *(row["step"] for row in timed)]
    steps = [end - before for before, end in pairwise(ends)]
    return ends[-1], sum(n * row["seconds_per_step"] for n, row in zip(steps, timed, strict=True))
