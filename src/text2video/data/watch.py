"""Examining files in watched worker processes: one that hangs or crashes is killed and named, and stops no other.

Workers are plain subprocesses that speak JSON lines: those of `multiprocessing` run the caller's main module again.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, is_dataclass
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Timer
from typing import Any

from ..errors import VideoError

Answer = dict[str, Any] | str


def examine_all(
    paths: Sequence[Path],
    *,
    timeout: float = 60.0,
    workers: int | None = None,
    on_done: Callable[[int], None] | None = None,
    on_answer: Callable[[Path, Answer], None] | None = None,
    examine: str = "text2video.video:examine",
    options: Sequence[dict[str, Any]] | None = None,
) -> list[Answer]:
    """What `examine` finds in every path, in the order given; the reason in words for one that cannot be used.

    A file gets `timeout` seconds. `workers` processes (by default one a core) are used again and again; one that had to
    be killed is replaced. `on_answer` is called in the caller's thread with each answer as it comes, and `on_done` with
    the number of files finished. `examine` names what the workers call, "module:function" from a path, and for each its
    own keyword arguments in `options`, to a dataclass or what JSON can hold.
    """
    count = max(1, min(workers or os.cpu_count() or 1, len(paths)))
    team = [_Worker(examine, timeout) for _ in range(count)]
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in team:
        idle.put(worker)

    def ask(path: Path, own: dict[str, Any]) -> Answer:
        worker = idle.get()
        try:
            return worker.ask(path, own)
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(count)
    answers = [pool.submit(ask, path, own) for path, own in zip(paths, options or [{}] * len(paths), strict=True)]
    of = dict(zip(answers, paths, strict=True))
    try:
        for number, answer in enumerate(as_completed(answers), 1):
            if on_answer:
                on_answer(of[answer], answer.result())
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

    def ask(self, path: Path, options: dict[str, Any]) -> Answer:
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
            return json.loads(answer)
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


def _serve(module: str, function: str) -> None:
    """The worker: answers each question, a JSON line on stdin, with one JSON line: what was found, or the reason."""
    examine = getattr(import_module(module), function)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        name, options = json.loads(line)
        path = Path(name)
        try:
            found = examine(path, **options)
            answer = asdict(found) if is_dataclass(found) and not isinstance(found, type) else found
        except VideoError as error:
            answer = str(error)
        except Exception as error:
            answer = f"{path} cannot be decoded: {type(error).__name__}: {error}. Convert it or leave it out."
        print(json.dumps(answer), file=answers, flush=True)
