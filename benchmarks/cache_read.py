"""How fast is prepared data read? Against mapping the same shards and copying the tensors' bytes out of the map.

    python benchmarks/cache_read.py [--gigabytes 1] [--clip_megabytes 2] [--rounds 7]

One cache is written with random latents; both then read its samples in the same shuffled order, in turns, with the
files in the system's memory. The other one is told where each tensor lies, and parses nothing. Times are medians.
"""

import argparse
import json
import mmap
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from machine import write_result

from text2video.data.cache import Cache, Settings
from text2video.data.clips import Clip
from text2video.data.shards import Entry, ShardWriter, scan


def make(folder: Path, gigabytes: float, megabytes: float) -> Cache:
    """A cache of random latents: mean and log-variance of each clip are so many megabytes."""
    shards = folder / "shards"
    shards.mkdir()
    width = round(megabytes * 1e6 / (2 * 4 * 16 * 4 * 32))
    count = round(gigabytes * 1e3 / megabytes)
    with ShardWriter(shards, "data") as writer:
        for number in range(count):
            mean = torch.randn(16, 4, 32, width)
            writer.add("video", str(number), "m", {"mean": mean, "logvar": mean / 2}, (13, 256, 8 * width))
    entries = [entry for path in sorted(shards.glob("*.tar")) for entry in scan(path)[0]]
    clips = [Clip(str(number), Path(f"{number}.mp4"), ("noise",)) for number in range(count)]
    table = {(entry.kind, entry.key, entry.mark): entry for entry in entries}
    cache = Cache(folder, Settings({}, {}, {}), clips, ["m"] * count, [], table)
    cache.save()
    cache = Cache.open(folder)
    cache.verify()
    return cache


def places(cache: Cache) -> list[list[tuple[str, int, int]]]:
    """For each clip, where its tensors' bytes lie: shard, first and last."""
    found = []
    for clip in cache.clips:
        entry: Entry = cache.entry("video", clip.id, "m")
        with (cache.folder / "shards" / entry.shard).open("rb") as file:
            file.seek(entry.offset)
            length = int.from_bytes(file.read(8), "little")
            told = json.loads(file.read(length))
        start = entry.offset + 8 + length
        spans = [value["data_offsets"] for name, value in told.items() if name != "__metadata__"]
        found.append([(entry.shard, start + first, start + last) for first, last in spans])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1)
    parser.add_argument("--clip_megabytes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = make(Path(folder), options.gigabytes, options.clip_megabytes)
        spans = places(cache)
        maps = {}
        for path in (cache.folder / "shards").glob("*.tar"):
            with path.open("rb") as file:
                maps[path.name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        order = np.random.default_rng(0).permutation(len(cache.clips)).tolist()

        def ours() -> int:
            return sum(tensor.nbytes for index in order for tensor in cache.video(index).values())

        def copying() -> int:
            copied = 0
            for index in order:
                views = [memoryview(maps[shard])[first:last] for shard, first, last in spans[index]]
                tensors = [torch.frombuffer(view, dtype=torch.float32).clone() for view in views]
                copied += sum(tensor.nbytes for tensor in tensors)
            return copied

        times: dict[str, list[float]] = {"ours": [], "copying": []}
        bytes_read = 0
        for turn in range(2 * options.rounds + 2):
            name, read = (("ours", ours), ("copying", copying))[turn % 2]
            began = perf_counter()
            bytes_read = read()
            if turn > 1:  # the first of each fills the maps
                times[name].append(perf_counter() - began)
    ratio = median(copy / own for own, copy in zip(times["ours"], times["copying"], strict=True))
    results = {
        "what": f"{len(order)} clips of {options.clip_megabytes:g} MB; medians of {options.rounds} rounds, in turns",
        "GB": round(bytes_read / 1e9, 3),
        "ours_GB_per_s": round(bytes_read / 1e9 / median(times["ours"]), 2),
        "copying_GB_per_s": round(bytes_read / 1e9 / median(times["copying"]), 2),
        "ours_over_copying": round(ratio, 3),
    }
    for name, value in results.items():
        print(f"{name}: {value}")
    write_result("cache_read", results, ("torch", "safetensors"))


if __name__ == "__main__":
    main()
