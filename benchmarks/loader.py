"""How fast does the loader feed training from clips, beside plain PyTorch loaders on decord and on OpenCV?

    python benchmarks/loader.py PATH_OF_CLIPS

Each loader has the same clips, windows of 16 frames at 8 fps, frames of 256x256 (scaled to cover, cropped in the
middle), batches, worker processes, decoder threads and prefetch. What is counted are float32 [B, 3, 16, 256, 256] in
[-1, 1] in the main process, wherever they are made.
They take turns in one run. Only clips that all of them decode rightly are used: `decode.py` finds out which these are.
"""

import argparse
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from machine import RESULTS, write_result
from torch.utils.data import DataLoader, Dataset

from text2video import TextVideoDataset, video
from text2video.data.buckets import BucketSampler
from text2video.data.clips import Clip
from text2video.data.dataset import to_float
from text2video.errors import VideoError
from text2video.training.data import batches

FRAMES, FPS, SIDE = 16, 8.0, 256


class Plain(Dataset):
    """What one writes by hand: open, choose a window, read, scale, crop, to float."""

    def __init__(self, paths: list[Path], threads: int):
        self.paths, self.threads = paths, threads

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        frames = self.read(self.paths[index])
        top, left = (frames.shape[1] - SIDE) // 2, (frames.shape[2] - SIDE) // 2
        frames = frames[:, top : top + SIDE, left : left + SIDE]
        return {"video": torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1, "caption": "a clip"}

    def read(self, path: Path) -> np.ndarray:
        raise NotImplementedError


def window(count: int, rate: float) -> list[int]:
    """Frame numbers of a window that lies at random; the last frame stands still where the clip is too short."""
    step = rate / FPS
    start = torch.rand(()).item() * max(0.0, count - 1 - step * (FRAMES - 1))
    return (start + step * np.arange(FRAMES)).round().astype(int).clip(max=count - 1).tolist()


def covering(width: int, height: int) -> tuple[int, int]:
    scale = max(SIDE / width, SIDE / height)
    return max(SIDE, round(width * scale)), max(SIDE, round(height * scale))


class WithDecord(Plain):
    def read(self, path: Path) -> np.ndarray:
        import decord

        height, width = decord.VideoReader(str(path), num_threads=self.threads)[0].shape[:2]
        width, height = covering(width, height)
        reader = decord.VideoReader(str(path), width=width, height=height, num_threads=self.threads)
        return reader.get_batch(window(len(reader), reader.get_avg_fps())).asnumpy()


class WithOpenCV(Plain):
    def read(self, path: Path) -> np.ndarray:
        import cv2

        cv2.setNumThreads(self.threads)
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, self.threads])
        wanted = window(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS))
        size = covering(int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        frames, at = {}, 0
        for number in sorted(set(wanted)):
            while at < number and capture.grab():  # the only way that is always right, and faster than seeking
                at += 1
            read, frame = capture.read()
            at += 1
            if read:
                frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
                frames[number] = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        known = sorted(frames)  # some files promise a frame more than they hold
        return np.stack([frames[number if number in frames else known[-1]] for number in wanted])


PEERS = {"decord": ("decord", WithDecord), "OpenCV": ("cv2", WithOpenCV)}


def is_whole(path: Path) -> bool:
    """Whether it is an undamaged moving picture."""
    try:
        info = video.examine(path)
    except VideoError:
        return False
    return info.problem is None and info.num_frames > 1


def forever(loader: DataLoader) -> Iterator[dict[str, Any]]:
    while True:
        yield from loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--batches", type=int, default=8, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    wrong = json.loads((RESULTS / "decode.json").read_text(encoding="utf-8"))["not_right"]
    avoided = {name for names in wrong.values() for name in names}
    paths = [path for path in sorted(options.clips.iterdir()) if path.name not in avoided and is_whole(path)]
    print(f"{len(paths)} clips")

    dataset = TextVideoDataset(
        [Clip(path.name, path, ("a clip",)) for path in paths],
        num_frames=FRAMES,
        frame_size=SIDE,
        fps=FPS,
        as_levels=True,  # as `train` opens it
    )
    sampler = BucketSampler([dataset.shape(index) for index in range(len(dataset))], options.batch_size)
    loaders: dict[str, Iterator[Any]] = {"text2video": batches(dataset, sampler, options.workers)}
    packages = ["torch", "av", "numpy"]
    for name, (module, kind) in PEERS.items():
        if find_spec(module):
            same = {"batch_size": options.batch_size, "num_workers": options.workers, "drop_last": True}
            loaders[name] = forever(DataLoader(kind(paths, 1), shuffle=True, persistent_workers=True, **same))
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for loader in loaders.values():
        next(loader)
    for turn in range(options.rounds):
        order = list(loaders)[turn % len(loaders) :] + list(loaders)[: turn % len(loaders)]
        for name in order:
            held = 2 * options.workers  # batches that lie ready from before are not of this turn
            for _ in range(held):
                next(loaders[name])
            began = perf_counter()
            for _ in range(options.batches):
                videos = to_float(next(loaders[name])["video"])
            assert (videos.dtype, videos.shape[1:]) == (torch.float32, (3, FRAMES, SIDE, SIDE)), name
            rates[name].append(options.batches * options.batch_size / (perf_counter() - began))

    results = {}
    for name, seen in rates.items():
        ratios = [own / peer for own, peer in zip(rates["text2video"], seen, strict=True)]
        results[name] = {
            "clips_per_second": {"median": round(median(seen), 2), "range": [round(min(seen), 2), round(max(seen), 2)]},
            "text2video_is_times_as_fast": {
                "median": round(median(ratios), 2),
                "range": [round(min(ratios), 2), round(max(ratios), 2)],
            },
        }
        rate = f"{median(seen):6.2f} clips/s ({min(seen):.2f} to {max(seen):.2f})"
        print(f"{name:<11} {rate}; ours is {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times as fast")
    what = (
        f"windows of {FRAMES} frames at {FPS:g} fps, {SIDE}x{SIDE}, from {len(paths)} clips; batches of "
        f"{options.batch_size}, {options.workers} workers with one decoder thread; {options.rounds} turns of "
        f"{options.batches} batches each"
    )
    write_result("loader", {"what": what, "results": results}, tuple(packages))


if __name__ == "__main__":
    main()
