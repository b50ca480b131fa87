"""Any batch of packs is a function of its number; every clip comes once an epoch; packs are full, and equally so."""

import json
import pickle
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from text2video.data.packing import PackSampler
from text2video.errors import DataError


def many() -> Iterator[tuple[list[int], int, int]]:
    """(tokens of clips, of a pack, seed), drawn anew: 1 to 200 clips, of few sizes or of many."""
    draws = random.Random(0)
    for seed in range(30):
        few = [draws.randint(1, 100) for _ in range(draws.randint(1, 5))]
        kinds = few if seed % 2 else range(1, 101)
        yield draws.choices(kinds, k=draws.randint(1, 200)), draws.randint(100, 500), seed


def packs_of(sampler: PackSampler, epochs: int) -> list[list[tuple[int, int]]]:
    """All packs of the first epochs, by one process."""
    return [sampler.batch(k) for k in range(sampler.batches_before(epochs))]


def test_every_clip_comes_once_an_epoch():
    for tokens, size, seed in many():
        pairs = Counter(pair for pack in packs_of(PackSampler(tokens, size, seed), 3) for pair in pack)
        assert pairs == Counter((index, epoch) for epoch in range(3) for index in range(len(tokens)))


def test_no_pack_is_too_full_and_none_is_empty():
    for tokens, size, seed in many():
        packs = packs_of(PackSampler(tokens, size, seed), 3)
        assert all(0 < sum(tokens[index] for index, _ in pack) <= size for pack in packs)


def test_mixed_sizes_leave_at_most_5_percent_of_the_packs_empty():
    draws = np.random.default_rng(0)
    for size in (1000, 4096, 20_000):
        for spread in (0.2, 0.7, 1.2):  # from alike to very different
            tokens = np.exp(draws.normal(np.log(size / 12), spread, 2000)).clip(1, size / 3).astype(int).tolist()
            sampler = PackSampler(tokens, size)
            assert sampler.full == pytest.approx(sum(tokens) / size / sampler.packs)
            assert sampler.full >= 0.95
            lengths = [sum(tokens[index] for index, _ in pack) for pack in packs_of(sampler, 2)]
            assert min(lengths) >= 0.92 * max(lengths)


def test_the_commonest_sizes_of_real_clips_leave_at_most_5_percent_empty(real_clips):
    facts = json.loads((real_clips / "facts.json").read_text(encoding="utf-8")).values()
    shapes = [(min(16, fact["frames"]), *sorted(fact["display"])) for fact in facts if "display" in fact]
    commonest = [size for size, _ in Counter(shape[1:] for shape in shapes).most_common(16)]
    tokens = []
    for frames, low, high in (shape for shape in shapes if shape[1:] in commonest):
        scale = min(1.0, 128 / high) / 8
        tokens.append(frames * max(1, int(low * scale)) * max(1, int(high * scale)))
    assert len(commonest) == 16
    assert len(set(tokens)) > 5
    sampler = PackSampler(tokens * 4, 16_384)
    assert sampler.full >= 0.95


def test_any_batch_without_those_before():
    for tokens, size, seed in many():
        for world, parts in ((1, 1), (2, 2)):
            shared = {"world_size": world, "parts": parts}
            unbroken = [PackSampler(tokens, size, seed, **shared).batch(k) for k in range(12)]
            one = PackSampler(tokens, size, seed, **shared)
            assert [one.batch(k) for k in (11, 3, 7)] == [unbroken[k] for k in (11, 3, 7)]
            resumed = list(islice(PackSampler(tokens, size, seed, 7, **shared), 5 * parts))
            own = [pack[s.start : s.stop] for k, pack in enumerate(unbroken) if k >= 7 for s in one.shares(k)]
            assert resumed == own


def test_any_sharing_gives_the_same_packs():
    for tokens, size, seed in many():
        packs = list(islice(PackSampler(tokens, size, seed), 24))
        for world, parts in ((2, 1), (1, 3), (2, 3), (4, 1)):
            ranks = [
                list(islice(PackSampler(tokens, size, seed, rank=rank, world_size=world, parts=parts), 24 // world))
                for rank in range(world)
            ]
            assert [own for at_once in zip(*ranks, strict=True) for own in at_once] == packs
            one = PackSampler(tokens, size, seed, world_size=world, parts=parts)
            for k in range(24 // world // parts):
                assert one.batch(k) == [pair for pack in packs[k * world * parts :][: world * parts] for pair in pack]
                assert one.size(k) == len(one.batch(k))


def test_packs_that_waited_come_first():
    tokens = random.Random(0).choices(range(20, 100), k=70)
    sampler = PackSampler(tokens, 300, world_size=4)
    assert sampler.packs % 4
    for epoch in range(1, 4):
        first = sampler.batches_before(epoch)
        late = [old < epoch for k in range(first, first + 3) for _, old in sampler.batch(k)]
        assert late == sorted(late, reverse=True)
        assert sampler.epoch_of(first) == epoch
        assert sampler.epoch_of(first - 1) == epoch - 1
    seen = {pair for k in range(sampler.steps(2)) for pair in sampler.batch(k)}
    assert {(index, epoch) for index in range(70) for epoch in range(2)} <= seen


def test_a_clip_has_other_company_each_epoch():
    tokens = np.exp(np.random.default_rng(0).normal(5, 0.7, 400)).astype(int).tolist()  # nearly all are different
    sampler = PackSampler(tokens, 4096)
    pairs = []
    for epoch in range(2):
        packs = [sampler.batch(k) for k in range(sampler.batches_before(epoch), sampler.batches_before(epoch + 1))]
        pairs.append({(a, b) for pack in packs for a, _ in pack for b, _ in pack if a < b})
    assert len(pairs[0] & pairs[1]) < 0.25 * len(pairs[0])
    assert PackSampler(tokens, 4096, seed=1).batch(0) != sampler.batch(0)


def test_it_is_quick_and_can_be_sent():
    tokens = np.exp(np.random.default_rng(0).normal(5, 0.7, 20_000)).astype(int)
    sampler = PackSampler(tokens, 8192)
    late = sampler.batch(1_000_000)
    assert pickle.loads(pickle.dumps(sampler)).batch(1_000_000) == late


def test_the_heaviest_pack_holds_the_largest_clips():
    words, clips = PackSampler([1, 5, 3, 5, 2], 10).heaviest()
    assert "10" in words
    assert clips == [1, 3]


def test_what_cannot_be_packed_is_said():
    with pytest.raises(DataError, match="no clips"):
        PackSampler([], 4)
    with pytest.raises(DataError, match=r"2 of 3 clips are longer than a pack of 4 tokens, the longest 9"):
        PackSampler([9, 5, 3], 4)
