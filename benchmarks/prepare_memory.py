"""How much memory does `data prepare` need beyond the models, and does it grow with the data set?

    python benchmarks/prepare_memory.py [--gigabytes 20] [--frames 96] [--width 512] [--height 384]

Makes a data set whose decoded frames are so many gigabytes, out of links to a few files, and prepares 48 frames of
256x256 pixels of each clip in a process of its own. Pixels are stored, so that no model's memory hides anything. The
memory of that process and of all that it starts, each shared page counted once (Pss), is read five times a second, and
compared with what the process holds after imports. What is looked at in files is not remembered from other runs.
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

FRAMES, SIDE = 48, 256  # of what is prepared

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


def held(process: int) -> tuple[float, float]:
    """Gigabytes that a process and its descendants hold: all, and what of it is mapped from files."""
    total = mapped = 0.0
    waiting = [process]
    while waiting:
        folder = Path("/proc") / str(waiting.pop())
        try:
            rows = [line.split() for line in (folder / "smaps_rollup").read_text().splitlines()[1:]]
            sizes = {row[0]: int(row[1]) * 1024 / 1e9 for row in rows}
            total += sizes["Pss:"]
            mapped += sizes["Pss_File:"]
            for task in (folder / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, KeyError):  # it has ended meanwhile
            continue
    return total, mapped


def make(folder: Path, gigabytes: float, frames: int, height: int, width: int) -> int:
    """A data set whose decoded frames are so many gigabytes; the number of its clips."""
    count = max(1, round(gigabytes * 1e9 / (3 * frames * height * width)))
    (folder / "videos").mkdir(parents=True)
    (folder / "captions").mkdir()
    drawn = np.random.default_rng(0)
    for number in range(4):
        coarse = drawn.integers(0, 255, (frames, height // 16, width // 16, 3), np.uint8)
        video.write(folder / f"{number}.mp4", (frame.repeat(16, 0).repeat(16, 1) for frame in coarse), 24, crf=30)
    for number in range(count):
        os.link(folder / f"{number % 4}.mp4", folder / "videos" / f"{number:06d}.mp4")
        (folder / "captions" / f"{number:06d}.txt").write_text("noise", encoding="utf-8")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=20, help="of decoded frames")
    parser.add_argument("--frames", type=int, default=96, help="of a file")
    parser.add_argument("--height", type=int, default=384)
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        clips = make(data, options.gigabytes, options.frames, options.height, options.width)
        line = [sys.executable, "-c", RUN, str(data), str(out), str(FRAMES), str(SIDE)]
        process = subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TEXT2VIDEO_CACHE": str(Path(folder) / "cache")},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        before, _ = held(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        began, seen = time.perf_counter(), []
        while process.poll() is None:
            seen.append(held(process.pid))
            time.sleep(0.2)
            done = sum(path.stat().st_size for path in out.glob("shards/*")) / (3 * FRAMES * SIDE * SIDE * clips)
            print(f"\r{time.perf_counter() - began:.0f} s, {done:.0%}, {seen[-1][0]:.2f} GB", end="", flush=True)
        seconds = time.perf_counter() - began
        print()
        if process.returncode:
            sys.exit(f"data prepare ended with exit code {process.returncode}; its message stands above")
        prepared = len(Cache.open(out).clips)
        if prepared != clips:
            sys.exit(f"{prepared} of {clips} clips were prepared")
        written = sum(path.stat().st_size for path in out.glob("shards/*.tar")) / 1e9
    halves = [max(total for total, _ in part) for part in (seen[: len(seen) // 2], seen[len(seen) // 2 :])]
    most, mapped = max(seen)
    results = {
        "decoded_GB": round(clips * 3 * options.frames * options.height * options.width / 1e9, 2),
        "file": f"{options.frames} frames of {options.width}x{options.height}",
        "prepared": f"{FRAMES} frames of {SIDE}x{SIDE} pixels",
        "clips": clips,
        "written_GB": round(written, 2),
        "seconds": round(seconds, 1),
        "GB_after_imports": round(before, 3),
        "GB_at_most": round(most, 3),
        "GB_at_most_beyond_imports": round(most - before, 3),
        "GB_of_these_mapped_from_files": round(mapped, 3),
        "GB_at_most_in_each_half": [round(value, 3) for value in halves],
    }
    for name, value in results.items():
        print(f"{name}: {value}")
    write_result("prepare_memory", results, ("torch", "av", "pyarrow"))


if __name__ == "__main__":
    main()
