"""Generators by key: what is random at one place depends on no other."""

import numpy as np
import torch


def generator(*key: int) -> torch.Generator:
    """A CPU generator for a key of non-negative numbers."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
