import time

import numpy as np

from text2video.data.duplicates import near_duplicates, signature


def clip(seed: int, noise: float = 0.0) -> np.ndarray:
    """Blotches that drift, uint8 `[16, 16, 16, 3]`."""
    rng = np.random.default_rng(seed)
    ground = rng.uniform(30, 220, (4, 4, 3)).repeat(4, 0).repeat(4, 1)
    frames = np.stack([np.roll(ground, shift, 1) for shift in range(16)])
    return (frames + np.random.default_rng(99).normal(0, noise, frames.shape)).clip(0, 255).astype(np.uint8)


def of(frames: np.ndarray, fps: float = 8) -> str:
    return signature(np.arange(len(frames)) / fps, frames)


def test_copies_are_found_whatever_their_rate_noise_and_light():
    copies = {"a": of(clip(0)), "other": of(clip(1)), "noisy": of(clip(0, 6.0)), "slower": of(clip(0), 4)}
    copies["bright"] = of((clip(0) * 0.8 + 40).astype(np.uint8))
    assert near_duplicates(copies) == {"noisy": "a", "slower": "a", "bright": "a"}


def test_another_take_backwards_or_in_another_colour_is_no_copy():
    takes = {"a": of(clip(0)), "backwards": of(clip(0)[::-1]), "red": of(clip(0) // [1, 4, 4])}
    assert near_duplicates(takes) == {}


def test_clips_that_show_nothing_and_single_frames():
    black = {name: of(np.full((9, 16, 16, 3), level, np.uint8)) for name, level in (("a", 0), ("b", 0), ("c", 200))}
    assert near_duplicates(black) == {}
    assert near_duplicates({}) == {}
    assert near_duplicates({"p": of(clip(3)[:1]), "q": of(clip(3)[:1])}) == {"q": "p"}


def test_many_clips_are_not_compared_pair_by_pair():
    many = {str(seed): of(clip(seed)) for seed in range(1500)} | {"copy": of(clip(700, 4.0))}
    began = time.monotonic()
    assert near_duplicates(many) == {"copy": "700"}
    assert time.monotonic() - began < 20  # a million pairs would take minutes
