"""Several processes, each with its part of the work: started here, or by `accelerate launch` and `torchrun`."""

import multiprocessing
import os
from collections.abc import Callable
from datetime import timedelta
from queue import Empty
from typing import Any, TypeVar

import torch

from ..errors import DataError, Text2VideoError, UsageError
from .encoding import Job, Work, encode_part

Made = TypeVar("Made")


class Launched:
    """This process among those that a launcher started; alone where none did."""

    def __init__(self) -> None:
        self._state: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            # the others wait while one verifies what there is, or has the larger part
            self._state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=12))

    @property
    def rank(self) -> int:
        """This process's number."""
        return self._state.process_index if self._state else 0

    @property
    def world(self) -> int:
        """How many there are."""
        return self._state.num_processes if self._state else 1

    @property
    def is_main(self) -> bool:
        """Whether it is the one that speaks and writes tables."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where it works."""
        return self._state.device

    def made_once(self, make: Callable[[], Made]) -> Made:
        """What the main process makes, for all of them."""
        made = [make() if self.is_main else None]
        if self._state:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(made)
        return made[0]  # pyright: ignore[reportReturnType] - the main process has filled it

    def wait(self) -> None:
        """Until all have come here."""
        if self._state:
            self._state.wait_for_everyone()


def encode_in_processes(job: Job, work: Work, count: int, on_done: Callable[[int], None]) -> None:
    """Encodes with `count` new processes, each on its own GPU where there are GPUs.

    Raises:
        UsageError: there are fewer GPUs.
        DataError: a process was lost; what was done stays.
    """
    gpus = torch.cuda.device_count() if job.config.train.device in ("auto", "cuda") else 0
    if gpus and count > gpus:
        raise UsageError(f"--num_gpus is {count}, and this machine has {gpus}. Give at most {gpus}.")
    context = multiprocessing.get_context("spawn")
    news: Any = context.Queue()
    processes = [
        context.Process(target=_work, args=(job, work.part(n, count), n, count, gpus, news), daemon=True)
        for n in range(count)
    ]
    for process in processes:
        process.start()
    done, failed = [0] * count, None
    try:
        while any(process.is_alive() for process in processes) or not news.empty():
            try:
                number, said = news.get(timeout=0.2)
            except Empty:
                continue
            if isinstance(said, Text2VideoError):
                failed = failed or said
            else:
                done[number] = said
                on_done(sum(done))
    finally:
        for process in processes:
            process.kill()
            process.join()
    if failed:
        raise failed
    if lost := [n for n, process in enumerate(processes) if process.exitcode]:
        raise DataError(
            f"Process {lost[0]} of {count} ended with exit code {processes[lost[0]].exitcode}; a negative one says "
            "that it was killed, often for want of memory. What was encoded stays: give the same command again."
        )


def _work(job: Job, work: Work, number: int, count: int, gpus: int, news: Any) -> None:
    try:
        device = torch.device("cuda", number) if gpus else torch.device("cpu")
        checkers = max(1, (os.cpu_count() or 1) // count)
        encode_part(job, work, device, checkers, lambda done: news.put((number, done)))
    except Text2VideoError as error:
        news.put((number, error))
