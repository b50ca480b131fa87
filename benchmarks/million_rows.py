"""How long a manifest of a million clips takes to read, and how much memory it needs.

The files are there, and empty: 1,000 in a folder, or in a tar. Each manifest is read in a process of its own.

    python benchmarks/million_rows.py [--clips 1000000]
"""

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from machine import write_result

from text2video.data.clips import Clip, Manifest

_READ = """
import json, re, resource, sys, time
from pathlib import Path
from text2video.data.clips import Manifest

def peak():  # getrusage would also count the process that started this one
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

before, began, worked = peak(), time.perf_counter(), time.process_time()
manifest = Manifest.load(sys.argv[1])
seconds, worked = time.perf_counter() - began, time.process_time() - worked
print(json.dumps({"clips": len(manifest), "left_out": len(manifest.left_out), "seconds": round(seconds, 1),
    "cpu_seconds": round(worked, 1), "peak_gb": round(peak() / 1e9, 2), "before_gb": round(before / 1e9, 2)}))
"""


def make(root: Path, clips: int, kind: str) -> Manifest:
    """A data set of empty files in folders or tars."""
    found = []
    for first in range(0, clips, 1000):
        names = [f"{number:07d}.mp4" for number in range(first, min(first + 1000, clips))]
        folder = root / "videos" / f"{first // 1000:04d}{'.tar' if kind == 'tar' else ''}"
        if kind == "tar":
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tarfile.open(folder, "w") as tar:
                for name in names:
                    tar.addfile(tarfile.TarInfo(name))
        else:
            folder.mkdir(parents=True)
            for name in names:
                (folder / name).touch()
        for name in names:
            id = f"videos/{folder.name}/{name}"
            found.append(Clip(id, folder / name, (f"clip {name[:7]}: a red circle moves slowly to the left",)))
    return Manifest(root, "made", found)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    options = parser.parse_args()
    results = {}
    for kind in ("folders", "tar"):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            manifest = make(root, options.clips, kind)
            for suffix in ("jsonl", "parquet"):
                began = time.perf_counter()
                manifest.save(root / f"manifest.{suffix}")
                saved = time.perf_counter() - began
                command = [sys.executable, "-c", _READ, str(root / f"manifest.{suffix}")]
                read = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                results[f"{suffix}, files in {kind}"] = read | {"seconds_to_save": round(saved, 1)}
                print(suffix, kind, results[f"{suffix}, files in {kind}"])
    write_result("million_rows", {"results": results}, packages=("pyarrow",))


if __name__ == "__main__":
    main()
