"""Which clips make batch k of a run, for any k, computed and not remembered.

A bucket is one (frames, height, width); every batch comes from one bucket. Each bucket's clips form an endless
stream: a new permutation for each epoch, one after another, cut into batches. What is left over at the end of an
epoch opens the bucket's next one, so no clip is ever dropped. Within an epoch the buckets' batches are shuffled.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from ..errors import DataError


class BucketSampler:
    """Batches of one shape each, in an order that follows from the seed alone.

    As a `batch_sampler` it yields lists of (index, epoch) from `start` on, without end; `epoch` is how often the
    clip was seen before. Processes of one run share the order and each take their part of every batch.

    Args:
        buckets: the bucket of each clip, anything hashable.
        batch_size: clips in a batch, of all processes together.
        seed: of the order.
        start: first batch, for resuming.
        rank, world_size: this process and their number; `batch_size` must be a multiple of it.

    Raises:
        DataError: there are no clips, or a batch cannot be shared evenly.
    """

    def __init__(
        self,
        buckets: Sequence[Hashable],
        batch_size: int,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        if not len(buckets):
            raise DataError("There are no clips to sample from. Check the data with `text2video data check`.")
        if batch_size % world_size:
            raise DataError(
                f"A batch of {batch_size} cannot be shared by {world_size} processes. Use a multiple of it."
            )
        members: dict[Hashable, list[int]] = defaultdict(list)
        for index, bucket in enumerate(buckets):
            members[bucket].append(index)
        self.members = [np.array(indices) for indices in members.values()]
        self.batch_size, self.seed, self.start = batch_size, seed, start
        self.rank, self.world_size = rank, world_size
        self.num_clips = len(buckets)
        self._permutation = lru_cache(maxsize=2 * len(self.members) + 2)(self._permute)
        self._order = lru_cache(maxsize=2)(self._shuffle_epoch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        share = self.batch_size // self.world_size
        k = self.start
        while True:
            yield self.batch(k)[self.rank * share : (self.rank + 1) * share]
            k += 1

    def batch(self, k: int) -> list[tuple[int, int]]:
        """The (index, epoch) pairs of batch k, of all processes together."""
        epoch = self.epoch_of(k)
        bucket, nth = self._order(epoch)[k - self.batches_before(epoch)]
        size = len(self.members[bucket])
        positions = range(nth * self.batch_size, (nth + 1) * self.batch_size)
        return [(int(self._permutation(bucket, p // size)[p % size]), p // size) for p in positions]

    def batches_before(self, epoch: int) -> int:
        """Batches in all epochs before this one."""
        return sum(epoch * len(indices) // self.batch_size for indices in self.members)

    def epoch_of(self, k: int) -> int:
        """The epoch that batch k belongs to."""
        epoch = k * self.batch_size // self.num_clips  # never too late: leftovers only delay batches
        while self.batches_before(epoch + 1) <= k:
            epoch += 1
        return epoch

    def _permute(self, bucket: int, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, 1, bucket, epoch))
        return rng.permutation(self.members[bucket])

    def _shuffle_epoch(self, epoch: int) -> list[tuple[int, int]]:
        batches = [
            (bucket, nth)
            for bucket, indices in enumerate(self.members)
            for nth in range(epoch * len(indices) // self.batch_size, (epoch + 1) * len(indices) // self.batch_size)
        ]
        if len(self.members) > 1:
            np.random.default_rng((self.seed, 2, epoch)).shuffle(batches)
        return batches
