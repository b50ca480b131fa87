"""From the manifest of a million clips to the first batch: how long it takes, and how much memory.

Makes the manifest itself: stretches of a thousand files, which are empty, since nothing is decoded. The sizes that a
check would have measured are drawn at random. Then, in a process of its own: load the manifest, derive buckets, put
each clip into one, make the data set and the sampler, choose batch 0 and one in the middle, and send the data set to a
worker.

    python benchmarks/first_batch.py [--clips 1000000] [--format parquet]
"""

import argparse
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import write_result

FILES = 1000
SIZES = [(720, 1280), (1080, 1920), (1280, 720), (480, 640), (1080, 1080), (360, 640), (816, 1920)]
LOADED = "import sys; sys.path.insert(0, sys.argv[1]); import first_batch; first_batch.measure(sys.argv[2])"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="parquet")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_manifest(Path(folder), options.clips, options.format)
        command = [sys.executable, "-c", LOADED, str(Path(__file__).parent), str(manifest)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(json.dumps(found, indent=1))
    write_result("first_batch", {"clips": options.clips, "format": options.format, **found})


def write_manifest(folder: Path, clips: int, kind: str) -> Path:
    """A manifest in a folder, and the empty files that it names."""
    (folder / "videos").mkdir()
    for number in range(FILES):
        (folder / f"videos/{number:04d}.mp4").touch()
    path = folder / f"manifest.{kind}"
    chunks = ([row(number) for number in range(first, min(first + 10_000, clips))] for first in range(0, clips, 10_000))
    if kind == "parquet":
        with pq.ParquetWriter(path, pa.Table.from_pylist([row(0)]).schema) as writer:
            for chunk in chunks:
                writer.write_table(pa.Table.from_pylist(chunk))
    else:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(values) + "\n" for chunk in chunks for values in chunk)
    return path


def row(number: int) -> dict[str, Any]:
    """One row of the manifest: a stretch of a second."""
    video, start = f"videos/{number % FILES:04d}.mp4", float(number // FILES)
    caption = f"caption {number}: what is seen in this stretch, in a sentence of about twelve words"
    id = f"{video}#{start:g}-{start + 1:g}"
    return {"id": id, "video": video, "captions": [caption], "start": start, "end": start + 1}


def measure(manifest: str) -> None:
    """The stages, with their seconds and the memory so far; printed as JSON."""
    from text2video.data.buckets import BucketSampler
    from text2video.data.clips import Manifest
    from text2video.data.dataset import TextVideoDataset
    from text2video.data.fitting import derive, place
    from text2video.sizes import Bucket, ShapeRules

    stages: dict[str, dict[str, float]] = {}
    began = since = time.perf_counter()

    def stage(name: str) -> None:
        nonlocal since
        now, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        stages[name] = {"seconds": round(now - since, 2), "peak GB so far": round(used, 2)}
        since = now

    stage("import")
    clips = Manifest.load(manifest).clips
    stage("load the manifest")
    rng = np.random.default_rng(0)
    sizes = np.array(SIZES)[rng.choice(len(SIZES), len(clips), p=[0.3, 0.3, 0.1, 0.1, 0.1, 0.05, 0.05])]
    extents = np.column_stack([rng.integers(10, 500, len(clips)), sizes]).astype(np.int32)
    pictures = np.zeros(len(clips), bool)
    buckets = derive(extents, pictures, Bucket(49, 256, 256), ShapeRules.multiples(1, 16, 16))
    table, numbers = place(extents, pictures, buckets)
    stage("put clips into buckets")
    kept = np.flatnonzero(numbers >= 0)
    own = [table[number] for number in numbers[kept]]
    data = TextVideoDataset([clips[index] for index in kept], buckets=own)
    stage("make the data set")
    sampler = BucketSampler([data.shape(index) for index in range(len(data))], 64)
    first = sampler.batch(0)
    stage("sampler and batch 0")
    until = time.perf_counter() - began
    sampler.batch(len(data) // 64 * 5 + 1000)
    stage("a batch of epoch 5")
    sent = pickle.dumps(data)
    stage("pickle the data set")
    received = pickle.loads(sent)
    stage("unpickle it, as a worker does")
    assert received.clips[first[0][0]] == data.clips[first[0][0]]
    found = {"buckets": [str(bucket) for bucket in buckets], "left out": len(clips) - len(kept), "stages": stages}
    print(json.dumps({**found, "seconds to batch 0": round(until, 1), "pickled MB": round(len(sent) / 1e6)}))


if __name__ == "__main__":
    main()
