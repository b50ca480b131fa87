"""Batch k of a run is a function of k; every clip comes once an epoch; every batch has one shape."""

import pickle
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from text2video.data.buckets import BucketSampler
from text2video.errors import DataError, UsageError

BUCKETS = ["a"] * 13 + ["b"] * 5 + ["c"] * 2


def many() -> Iterator[tuple[list[str], int, int]]:
    """(buckets, batch size, seed), drawn anew: sets of 1 to 90 clips in 1 to 6 buckets."""
    draws = random.Random(0)
    for seed in range(40):
        kinds = "abcdef"[: draws.randint(1, 6)]
        yield draws.choices(kinds, k=draws.randint(1, 90)), draws.choice([1, 2, 4, 6, 12]), seed


def test_every_clip_comes_once_an_epoch():
    for buckets, size, seed in many():
        sampler = BucketSampler(buckets, size, seed)
        seen = Counter(pair for batch in islice(sampler, sampler.batches_before(6)) for pair in batch)
        assert set(seen.values()) <= {1}
        for index, bucket in enumerate(buckets):
            done = 6 * buckets.count(bucket) // size * size // buckets.count(bucket)  # epochs that are complete
            assert all((index, epoch) in seen for epoch in range(done))


def test_every_clip_comes_once_an_epoch_where_the_last_batch_is_smaller():
    for buckets, size, seed in many():
        sampler = BucketSampler(buckets, size, seed, last_batch="smaller")
        per_epoch = sampler.batches_before(1)
        assert per_epoch == sum(-(-count // size) for count in Counter(buckets).values())
        for epoch, start in enumerate(range(0, 3 * per_epoch, per_epoch)):
            pairs = [pair for k in range(start, start + per_epoch) for pair in sampler.batch(k)]
            assert sorted(pairs) == [(index, epoch) for index in range(len(buckets))]


@pytest.mark.parametrize("last_batch", ["wait", "smaller"])
def test_every_batch_has_one_bucket(last_batch):
    for buckets, size, seed in many():
        sampler = BucketSampler(buckets, size, seed, last_batch=last_batch)
        for k, batch in enumerate(islice(sampler, 40)):
            assert len(batch) == sampler.size(k) <= size
            assert len(batch) == size or last_batch == "smaller"
            assert len({buckets[index] for index, _ in batch}) == 1


@pytest.mark.parametrize("last_batch", ["wait", "smaller"])
def test_any_batch_without_those_before(last_batch):
    for buckets, size, seed in many():
        unbroken = list(islice(BucketSampler(buckets, size, seed, last_batch=last_batch), 60))
        for start in (1, 17, 41):
            resumed = BucketSampler(buckets, size, seed, start, last_batch=last_batch)
            assert list(islice(resumed, 60 - start)) == unbroken[start:]
        assert BucketSampler(buckets, size, seed, last_batch=last_batch).batch(59) == unbroken[59]
    assert list(islice(BucketSampler(BUCKETS, 4, seed=2), 40)) != list(islice(BucketSampler(BUCKETS, 4, seed=1), 40))


def test_any_sharing_gives_the_same_batches():
    for buckets, _, seed in many():
        whole = list(islice(BucketSampler(buckets, 12, seed), 20))
        for world, parts in ((2, 1), (1, 3), (2, 3), (4, 1), (3, 4)):
            ranks = [
                list(islice(BucketSampler(buckets, 12, seed, rank=rank, world_size=world, parts=parts), 20 * parts))
                for rank in range(world)
            ]
            assert all(len(own) == 12 // world // parts for rank in ranks for own in rank)
            for k, batch in enumerate(whole):
                shared = [ranks[r][k * parts + part] for part in range(parts) for r in range(world)]
                assert [pair for own in shared for pair in own] == batch


def test_parts_of_a_smaller_batch():
    sampler = BucketSampler(["a"] * 9, 6, parts=3, last_batch="smaller")
    assert [len(part) for part in islice(sampler, 10)] == [2, 2, 2, 2, 1] * 2
    assert [sampler.size(k) for k in range(4)] == [6, 3, 6, 3]


def test_clips_that_waited_come_first():
    for buckets, size, seed in many():
        sampler = BucketSampler(buckets, size, seed)
        for epoch in range(1, 4):
            late = [
                any(own < epoch for _, own in sampler.batch(k))
                for k in range(sampler.batches_before(epoch), sampler.batches_before(epoch + 1))
            ]
            assert late == sorted(late, reverse=True)


def test_few_of_ten_thousand_wait():
    draws = np.random.default_rng(0)
    buckets = draws.choice(10, 10_000, p=draws.dirichlet(np.ones(10)))
    batch, ranks = 4, 4
    sampler = BucketSampler(buckets, batch * ranks)
    for epoch in range(1, 6):
        ahead = Counter(index for k in range(sampler.batches_before(epoch)) for index, _ in sampler.batch(k))
        waiting = [index for index in range(10_000) if ahead[index] < epoch]
        assert len(waiting) <= 200
        assert max(Counter(buckets[waiting].tolist()).values()) < batch * ranks


def test_fewer_clips_than_a_batch_still_make_batches():
    batches = list(islice(BucketSampler(["a", "a"], 4), 3))
    assert [sorted(index for index, _ in batch) for batch in batches] == [[0, 0, 1, 1]] * 3


class Echo(Dataset):
    def __getitem__(self, key):
        return key


def test_any_number_of_workers_gives_the_same_order():
    order = [
        list(islice(DataLoader(Echo(), batch_sampler=sampler, num_workers=workers, collate_fn=list), 30))
        for workers in (0, 1, 2)
        for sampler in [BucketSampler(BUCKETS, 4, start=3)]
    ]
    assert order[0] == order[1] == order[2] == list(islice(BucketSampler(BUCKETS, 4, start=3), 30))


def test_it_is_small_and_can_be_sent():
    sampler = BucketSampler([(16, 256, 256), (16, 192, 320)] * 50_000, 16)
    first = sampler.batch(0)
    sent = pickle.dumps(sampler)
    assert len(sent) < 20 * sampler.num_clips
    assert pickle.loads(sent).batch(0) == first


def test_what_cannot_be_sampled_is_said():
    with pytest.raises(DataError, match="no clips"):
        BucketSampler([], 4)
    with pytest.raises(DataError, match="3 processes"):
        BucketSampler(BUCKETS, 4, world_size=3)
    with pytest.raises(DataError, match="2 processes in 3 parts"):
        BucketSampler(BUCKETS, 4, world_size=2, parts=3)
    with pytest.raises(UsageError, match="one process"):
        BucketSampler(BUCKETS, 4, world_size=2, last_batch="smaller")
