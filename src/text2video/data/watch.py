"""Examining files in watched worker processes: one that hangs or crashes is killed and named, and stops no other.

Workers are plain subprocesses that speak JSON lines: those of `multiprocessing` run the caller's main module again.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Timer

from ..errors import VideoError
from ..video import VideoInfo


def examine_all(
    paths: Sequence[Path],
    *,
    timeout: float = 60.0,
    workers: int | None = None,
    on_done: Callable[[int], None] | None = None,
    examine: str = "text2video.video:examine",
) -> list[VideoInfo | str]:
    """`video.examine` of every path, in the order given; the reason in words for one that cannot be used.

    A file gets `timeout` seconds. `workers` processes (by default one a core) are used again and again; one that had to
    be killed is replaced. `on_done` is called in the caller's thread with the number of files finished. `examine` names
    what the workers call, "module:function" from a path to a VideoInfo.
    """
    count = max(1, min(workers or os.cpu_count() or 1, len(paths)))
    team = [_Worker(examine, timeout) for _ in range(count)]
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in team:
        idle.put(worker)

    def ask(path: Path) -> VideoInfo | str:
        worker = idle.get()
        try:
            return worker.ask(path)
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

    def ask(self, path: Path) -> VideoInfo | str:
        if self.process is None or self.process.poll() is not None:
            self.process = self._start()
        process, late = self.process, Event()

        def kill() -> None:
            late.set()
            process.kill()

        timer = Timer(self.timeout, kill)
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(str(path)) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:  # it died before it could read the path
            answer = ""
        finally:
            timer.cancel()
        if answer:
            kind, content = json.loads(answer)
            return VideoInfo(**content) if kind == "info" else content
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

    def _start(self) -> "subprocess.Popen[str]":
        module, function = self.examine.split(":")
        return subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import _serve; _serve({module!r}, {function!r})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )


def _serve(module: str, function: str) -> None:
    """The worker: answers each path, a JSON line on stdin, with one JSON line `[kind, content]`."""
    examine = getattr(import_module(module), function)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    for line in sys.stdin:
        path = Path(json.loads(line))
        try:
            answer = ("info", asdict(examine(path)))
        except VideoError as error:
            answer = ("reason", str(error))
        except Exception as error:
            answer = (
                "reason",
                f"{path} cannot be decoded: {type(error).__name__}: {error}. Convert it or leave it out.",
            )
        print(json.dumps(answer), file=answers, flush=True)
