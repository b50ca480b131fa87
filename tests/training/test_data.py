"""Batches on their way from the loader to the model."""

import torch

from text2video.data.dataset import to_float
from text2video.training.data import collate


def item(video: torch.Tensor) -> dict:
    return {"video": video, "caption": "a", "id": "1", "conditions": {}}


def test_levels_and_floats_in_one_batch_are_not_mixed_up():
    """A subclass may give what is no level for some clips only."""
    levels = torch.arange(48, dtype=torch.uint8).view(3, 4, 2, 2)
    floats = to_float(levels) * 0.9
    assert torch.equal(collate([item(levels)] * 2)["video"], torch.stack([levels] * 2))
    assert torch.equal(collate([item(levels), item(floats)])["video"], torch.stack([to_float(levels), floats]))
