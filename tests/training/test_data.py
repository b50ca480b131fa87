"""Batches on their way from the loader to the model."""

import os
import subprocess
import sys
import time

import pytest
import torch

from text2video.data.dataset import to_float
from text2video.training.data import batches, collate


def item(video: torch.Tensor) -> dict:
    return {"video": video, "caption": "a", "id": "1", "conditions": {}}


def test_levels_and_floats_in_one_batch_are_not_mixed_up():
    """A subclass may give what is no level for some clips only."""
    levels = torch.arange(48, dtype=torch.uint8).view(3, 4, 2, 2)
    floats = to_float(levels) * 0.9
    assert torch.equal(collate([item(levels)] * 2)["video"], torch.stack([levels] * 2))
    assert torch.equal(collate([item(levels), item(floats)])["video"], torch.stack([to_float(levels), floats]))


class Niceness(torch.utils.data.Dataset):
    """Items that say how far the process that makes them steps back."""

    def __getitem__(self, key: tuple[int, int]) -> dict:
        return item(torch.full((3, 1, 1, 1), float(os.nice(0))))


@pytest.mark.skipif(not hasattr(os, "nice"), reason="this system has no niceness")
@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator trains, not the processor")
def test_workers_leave_the_processor_to_the_training():
    own = os.nice(0)
    (batch,) = next(batches(Niceness(), [[(0, 0)]], num_workers=1))
    assert batch["video"].unique().tolist() == [19]
    assert os.nice(0) == own


@pytest.mark.skipif(os.name == "nt", reason="there a child keeps the number of a parent that is gone")
def test_a_worker_whose_run_was_killed_as_it_began_ends():
    """By then it is another process's child, and torch would take that one for its run."""
    begin = (
        "import sys, time; from text2video.training.data import _behave; _behave(int(sys.argv[1]), 0); time.sleep(60)"
    )
    orphan = subprocess.Popen([sys.executable, "-c", begin, "0"])
    child = subprocess.Popen([sys.executable, "-c", begin, str(os.getpid())])
    assert orphan.wait(50) == 1
    time.sleep(2)
    assert child.poll() is None
    child.kill()
    child.wait()
