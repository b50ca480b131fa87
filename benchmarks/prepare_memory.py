"""How much memory does `data prepare` need beyond the models, and does it grow with the data set?

    python benchmarks/prepare_memory.py [--gigabytes 20] [--side 256] [--frames 49]

Makes a data set of that much decoded video, out of links to a few clips of noise, and prepares it in a process of its
own: pixels, so that all that is decoded is also written, and nothing is hidden behind a model. Its memory (resident,
with that of the processes that look at files) is read ten times a second, and compared with what it is after imports.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import write_result

from text2video import video
from text2video.data.cache import Cache

RUN = """
import sys
from text2video.config import RunConfig
from text2video.preparing.prepare import prepare
if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    data, out, frames, side = sys.argv[1:]
    config = {"data_dir": data, "num_frames": int(frames), "frame_size": int(side)}
    prepare(RunConfig.build({"data": config, "train": {"device": "cpu"}}), out)
"""


def resident(process: int) -> tuple[float, float]:
    """Gigabytes that a process and its children hold: its own (anonymous) memory, and with mapped files."""
    own = mapped = 0.0
    waiting = [process]
    while waiting:
        folder = Path("/proc") / str(waiting.pop())
        try:
            fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            own += int(fields.get("RssAnon", "0 kB").split()[0]) / 1e6
            mapped += int(fields.get("VmRSS", "0 kB").split()[0]) / 1e6
            for task in (folder / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return own, mapped


def make(folder: Path, gigabytes: float, frames: int, side: int) -> int:
    """A data set whose decoded frames are so many gigabytes; the number of its clips."""
    count = max(1, round(gigabytes * 1e9 / (3 * frames * side * side)))
    (folder / "videos").mkdir(parents=True)
    (folder / "captions").mkdir()
    drawn = np.random.default_rng(0)
    for number in range(4):
        coarse = drawn.integers(0, 255, (frames, side // 16, side // 16, 3), np.uint8)
        video.write(folder / f"{number}.mp4", coarse.repeat(16, 1).repeat(16, 2), 24, crf=30)
    for number in range(count):
        os.link(folder / f"{number % 4}.mp4", folder / "videos" / f"{number:06d}.mp4")
        (folder / "captions" / f"{number:06d}.txt").write_text("noise", encoding="utf-8")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=20)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--frames", type=int, default=49)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        clips = make(data, options.gigabytes, options.frames, options.side)
        line = [sys.executable, "-c", RUN, str(data), str(out), str(options.frames), str(options.side)]
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        before = resident(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        began, seen = time.perf_counter(), []
        while process.poll() is None:
            seen.append(resident(process.pid))
            time.sleep(0.1)
        seconds = time.perf_counter() - began
        assert process.returncode == 0
        assert len(Cache.open(out).clips) == clips
    halves = [max(own for own, _ in part) for part in (seen[: len(seen) // 2], seen[len(seen) // 2 :])]
    results = {
        "decoded_GB": options.gigabytes,
        "clip": f"{options.frames} frames of {options.side}x{options.side}",
        "clips": clips,
        "seconds": round(seconds, 1),
        "GB_after_imports": round(before[0], 3),
        "GB_at_most": round(max(own for own, _ in seen), 3),
        "GB_at_most_beyond_imports": round(max(own for own, _ in seen) - before[0], 3),
        "GB_at_most_with_mapped_files": round(max(both for _, both in seen), 3),
        "GB_at_most_in_each_half": [round(value, 3) for value in halves],
    }
    for name, value in results.items():
        print(f"{name}: {value}")
    write_result("prepare_memory", results, ("torch", "av", "pyarrow"))


if __name__ == "__main__":
    main()
