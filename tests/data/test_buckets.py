"""Batch k of a run is a function of k; every clip comes once an epoch; every batch has one shape."""

from collections import Counter
from itertools import islice

import pytest

from text2video.data.buckets import BucketSampler
from text2video.errors import DataError

BUCKETS = ["a"] * 13 + ["b"] * 5 + ["c"] * 2


def test_every_clip_comes_once_an_epoch():
    sampler = BucketSampler(BUCKETS, 4, seed=3)
    seen = Counter(pair for batch in islice(sampler, sampler.batches_before(8)) for pair in batch)
    assert set(seen.values()) == {1}
    complete = {(index, epoch) for index in range(20) for epoch in range(6)}
    assert complete <= set(seen)


def test_every_batch_has_one_bucket():
    for batch in islice(BucketSampler(BUCKETS, 4), 50):
        assert len(batch) == 4
        assert len({BUCKETS[index] for index, _ in batch}) == 1


def test_any_batch_without_those_before():
    unbroken = list(islice(BucketSampler(BUCKETS, 4, seed=1), 40))
    assert list(islice(BucketSampler(BUCKETS, 4, seed=1, start=17), 23)) == unbroken[17:]
    assert BucketSampler(BUCKETS, 4, seed=1).batch(31) == unbroken[31]
    assert list(islice(BucketSampler(BUCKETS, 4, seed=2), 40)) != unbroken


def test_processes_share_each_batch():
    whole = list(islice(BucketSampler(BUCKETS, 4), 20))
    parts = [list(islice(BucketSampler(BUCKETS, 4, rank=rank, world_size=2), 20)) for rank in range(2)]
    assert [first + second for first, second in zip(*parts, strict=True)] == whole


def test_fewer_clips_than_a_batch_still_make_batches():
    batches = list(islice(BucketSampler(["a", "a"], 4), 3))
    assert [sorted(index for index, _ in batch) for batch in batches] == [[0, 0, 1, 1]] * 3


def test_what_cannot_be_sampled_is_said():
    with pytest.raises(DataError, match="no clips"):
        BucketSampler([], 4)
    with pytest.raises(DataError, match="3 processes"):
        BucketSampler(BUCKETS, 4, world_size=3)
