"""Examining files in watched worker processes: one that hangs or crashes is killed and named, and stops no other.

Workers are plain subprocesses that speak JSON lines: those of `multiprocessing` run the caller's main module again.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Timer
from typing import Any

from .. import video
from ..errors import VideoError
from ..video import VideoInfo


def examine_all(
    paths: Sequence[Path],
    *,
    timeout: float = 60.0,
    workers: int | None = None,
    on_done: Callable[[int], None] | None = None,
    examine: str = "text2video.video:examine",
    samples: Mapping[Path, Sequence[Mapping[str, Any]]] | None = None,
) -> list[VideoInfo | str]:
    """`video.examine` of every path, in the order given; the reason in words for one that cannot be used.

    A file gets `timeout` seconds, and as many for each sample. `workers` processes (by default one a core) are used
    again and again; one that had to be killed is replaced. `on_done` is called in the caller's thread with the number
    of files finished. `examine` names what the workers call, "module:function" from a path to a VideoInfo.

    `samples` are options of `video.sample`, by path, that the worker tries as well: what decodes to its end may still
    hang where training seeks in it. `rng` in them is the place of the window, from 0 to 1. Where sampling ends in a
    VideoError, the caller meets the same one.
    """
    count = max(1, min(workers or os.cpu_count() or 1, len(paths)))
    team = [_Worker(examine, timeout) for _ in range(count)]
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in team:
        idle.put(worker)

    def ask(path: Path) -> VideoInfo | str:
        worker = idle.get()
        try:
            return worker.ask(path, (samples or {}).get(path, ()))
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(count)
    answers = [pool.submit(ask, path) for path in paths]
    try:
        for number, _ in enumerate(as_completed(answers), 1):
            if on_done:
                on_done(number)
        return [answer.result() for answer in answers]
    finally:
        for answer in answers:
            answer.cancel()
        for worker in team:
            worker.kill()
        pool.shutdown()
        for worker in team:
            worker.close()


class _Worker:
    """One process, started when first needed and again after each death."""

    def __init__(self, examine: str, timeout: float):
        self.examine, self.timeout = examine, timeout
        self.process: subprocess.Popen[str] | None = None

    def ask(self, path: Path, samples: Sequence[Mapping[str, Any]]) -> VideoInfo | str:
        info = self._call(path, None)
        for options in samples if isinstance(info, VideoInfo) else ():
            if problem := self._call(path, dict(options)):
                return str(problem)
        return info or ""

    def _call(self, path: Path, options: dict[str, Any] | None) -> VideoInfo | str | None:
        """Without options what the file holds, with them None once it was sampled; the reason where it cannot be."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        process, late = self.process, Event()
        assert process is not None

        def kill() -> None:
            late.set()
            process.kill()

        timer = Timer(self.timeout, kill)
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([str(path), options]) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:  # it died before it could read the path
            answer = ""
        finally:
            timer.cancel()
        if answer:
            kind, content = json.loads(answer)
            return VideoInfo(**content) if kind == "info" else content  # None when sampled
        code = process.wait()
        if late.is_set():
            return f"{path} was not decoded within {self.timeout:g} s. Convert it, leave it out, or allow more time."
        return f"{path} crashed the decoder (exit code {code}). Convert it or leave it out."

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def close(self) -> None:
        if self.process is not None:
            self.process.communicate()

    def _start(self) -> None:
        module, function = self.examine.split(":")
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import _serve; _serve({module!r}, {function!r})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()  # it is ready: on a busy machine its imports may take longer than a file


class _Place:
    """In place of a random generator: it draws one number, where the window lies."""

    def __init__(self, place: float):
        self.place = place

    def random(self) -> float:
        return self.place


def _try(path: Path, num_frames: int, rng: float | None = None, **options: Any) -> None:
    """`video.sample`, for whether it comes back."""
    place: Any = None if rng is None else _Place(rng)
    with suppress(VideoError):
        video.sample(path, num_frames, rng=place, **options)


def _serve(module: str, function: str) -> None:
    """The worker: answers each path, a JSON line on stdin, with one JSON line `[kind, content]`."""
    examine = getattr(import_module(module), function)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        name, options = json.loads(line)
        path = Path(name)
        try:
            answer = ("info", asdict(examine(path))) if options is None else ("sampled", _try(path, **options))
        except VideoError as error:
            answer = ("reason", str(error))
        except Exception as error:
            answer = (
                "reason",
                f"{path} cannot be decoded: {type(error).__name__}: {error}. Convert it or leave it out.",
            )
        print(json.dumps(answer), file=answers, flush=True)
