"""How fast are a clip's training frames read? 16 evenly spaced frames at 256 pixels from each clip of a folder.

    python benchmarks/decode.py CLIPS [--threads 1 2] [--rounds 7]

Against OpenCV (`pip install opencv-python-headless`) and decord (`pip install decord`), each on the clips that it
decodes rightly: all are asked for the same frames and sizes with the same number of threads, and a peer's frames must
be those of a full decoding. Runs are interleaved, times are medians.
"""

import argparse
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from machine import write_result

from text2video import video
from text2video.errors import VideoError
from text2video.video.sampling import nearest

FRAMES, SIDE = 16, 256
Reader = Callable[[Path, list[int], int, int, int], np.ndarray]  # path, frame numbers, width, height, threads


def with_text2video(path: Path, wanted: list[int], width: int, height: int, threads: int) -> np.ndarray:
    return video.sample(path, len(wanted), width=width, height=height, threads=threads).frames


def with_opencv(path: Path, wanted: list[int], width: int, height: int, threads: int) -> np.ndarray:
    import cv2

    cv2.setNumThreads(threads)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
    frames, at = {}, 0
    for number in sorted(set(wanted)):
        while at < number:  # skipping forward is faster than seeking, and the only way that is always right
            capture.grab()
            at += 1
        read, frame = capture.read()
        at += 1
        if not read:
            raise ValueError(f"no frame {number}")
        frames[number] = cv2.cvtColor(
            cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB
        )
    return np.stack([frames[number] for number in wanted])


def with_decord(path: Path, wanted: list[int], width: int, height: int, threads: int) -> np.ndarray:
    import decord

    reader = decord.VideoReader(str(path), width=width, height=height, num_threads=threads)
    return reader.get_batch(wanted).asnumpy()


PEERS: dict[str, tuple[str, Reader]] = {
    "OpenCV": ("opencv-python-headless", with_opencv),
    "decord": ("decord", with_decord),
}


def small(frames: np.ndarray) -> np.ndarray:
    """Frames as grey thumbnails, float `[T, 1024]`."""
    return video.resize(frames, 32, 32).mean(-1).reshape(len(frames), -1)


def same_frames(given: np.ndarray, every: np.ndarray, wanted: list[int]) -> bool:
    """Whether thumbnails `given` are the `wanted` ones of `every`: near in colour, and no other clearly nearer."""
    if len(given) != len(wanted):
        return False
    distance = np.abs(given[:, None] - every[None]).mean(-1)
    own = distance[np.arange(len(wanted)), wanted]
    return bool((own < 8).all() and (own < distance.min(1) + 0.5).all())


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()

    readers: dict[str, Reader] = {"text2video": with_text2video}
    for name, (package, reader) in PEERS.items():
        if installed(package):
            readers[name] = reader
        else:
            print(f"{name} is missing and left out: pip install {package}")

    clips: dict[Path, tuple[list[int], int, int]] = {}
    right: dict[str, set[Path]] = {name: set() for name in readers}
    for path in sorted(options.clips.iterdir()):
        try:
            every = video.read(path)
        except VideoError:
            continue
        height, width = every.frames.shape[1:3]
        scale = SIDE / min(height, width)
        wanted = nearest(every.times, np.linspace(0, every.times[-1], FRAMES)).tolist()
        if len(every.times) < FRAMES:
            wanted = [min(i, len(every.times) - 1) for i in range(FRAMES)]
        clips[path] = wanted, round(width * scale), round(height * scale)
        thumbnails = small(every.frames)
        for name, reader in readers.items():
            try:
                if same_frames(small(reader(path, *clips[path], 1)), thumbnails, wanted):
                    right[name].add(path)
            except Exception as error:
                print(f"{name} cannot read {path.name}: {str(error).strip().splitlines()[0][:90]}")

    results = []
    for threads in options.threads:
        times: dict[tuple[str, Path], list[float]] = {}
        for turn in range(options.rounds):
            for path, request in clips.items():
                names = list(readers)[turn % len(readers) :] + list(readers)[: turn % len(readers)]
                for name in names:
                    if path in right[name]:
                        began = perf_counter()
                        readers[name](path, *request, threads)
                        times.setdefault((name, path), []).append(perf_counter() - began)
        for name in list(readers)[1:]:
            shared = right[name] & right["text2video"]
            own, peer = (sum(median(times[who, path]) for path in shared) for who in ("text2video", name))
            results.append(
                {
                    "threads": threads,
                    "peer": name,
                    "clips_right": len(right[name]),
                    "clips": len(clips),
                    "clips_compared": len(shared),
                    "text2video_s": round(own, 3),
                    "peer_s": round(peer, 3),
                    "times_faster": round(peer / own, 2),
                }
            )

    print(f"\n{'threads':>7}  {'reader':<11} {'clips right':>11} {'its time':>9} {'ours':>8}   ours is")
    for row in results:
        print(
            f"{row['threads']:>7}  {row['peer']:<11} {row['clips_right']:>5} of {row['clips']:<2} "
            f"{row['peer_s']:>8.2f}s {row['text2video_s']:>7.2f}s   {row['times_faster']:.2f} times as fast"
        )
    wrong = {name: sorted(path.name for path in clips.keys() - right[name]) for name in readers}
    for name, files in wrong.items():
        print(f"{name}: not right on {', '.join(files) or 'none'}")
    what = f"{FRAMES} evenly spaced frames a clip, short side {SIDE} pixels; sums of medians of {options.rounds} rounds"
    packages = ("av", "numpy", *(package for package, _ in PEERS.values() if installed(package)))
    write_result("decode", {"what": what, "results": results, "not_right": wrong}, packages)


if __name__ == "__main__":
    main()
