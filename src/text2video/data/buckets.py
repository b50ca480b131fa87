"""Which clips make batch k of a run, for any k, computed and not remembered.

A bucket is one (frames, height, width); every batch comes from one bucket. Each bucket's clips form an endless
stream: a new permutation for each epoch, one after another, cut into batches. What is left over at the end of an
epoch waits, and comes first in the next one, so no clip is ever dropped. The other batches of an epoch are shuffled.
"""

from bisect import bisect_right
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ..errors import DataError, UsageError
from ..sizes import Bucket


class BucketSampler:
    """Batches of one shape each, in an order that follows from the seed alone.

    As a `batch_sampler` it yields lists of (index, epoch) from batch `start` on, without end; `epoch` is how often the
    clip was seen before. The order does not depend on how a batch is dealt out: to processes, each with the same share
    of every batch, and within a process in parts, one after another.

    Args:
        buckets: the bucket of each clip, anything hashable.
        batch_size: clips in a batch, of all processes and parts together.
        seed: of the order.
        start: first batch, for resuming.
        rank, world_size: this process and their number.
        parts: how many lists a process gets a batch in: the micro-steps of gradient accumulation.
        last_batch: what becomes of a bucket's clips that fill no batch at the end of an epoch: they "wait" for the next
            epoch, or make a "smaller" batch.

    Raises:
        DataError: there are no clips, or a batch cannot be shared evenly.
        UsageError: smaller batches are to be shared by several processes.
    """

    def __init__(
        self,
        buckets: Sequence[Hashable],
        batch_size: int,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
        last_batch: Literal["wait", "smaller"] = "wait",
    ):
        if not len(buckets):
            raise DataError("There are no clips to sample from. Check the data with `text2video data check`.")
        if batch_size % (world_size * parts):
            shares = f"{world_size} processes" + (f" in {parts} parts each" if parts > 1 else "")
            raise DataError(f"A batch of {batch_size} cannot be shared by {shares}. Use a multiple of it.")
        if last_batch == "smaller" and world_size > 1:
            raise UsageError(
                f"--last_batch smaller works with one process, and here are {world_size}: a batch of fewer clips than "
                "processes would leave some without any. Choose --last_batch wait."
            )
        numbers: dict[Hashable, int] = {}  # bucket -> its number, in the order they first appear in
        kinds = np.fromiter((numbers.setdefault(b, len(numbers)) for b in buckets), np.int32, len(buckets))
        self.buckets: list[Any] = list(numbers)
        self.sizes = np.bincount(kinds)  # clips in each bucket
        self.members = np.split(np.argsort(kinds, kind="stable").astype(np.int32), np.cumsum(self.sizes)[:-1])
        self.batch_size, self.seed, self.start = batch_size, seed, start
        self.rank, self.world_size, self.parts = rank, world_size, parts
        self.last_batch = last_batch
        self.num_clips = len(buckets)
        self._permutations: dict[tuple[int, int], np.ndarray] = {}  # the latest, by (bucket, epoch)
        self._latest = self._epoch(0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        k = self.start
        while True:
            batch = self.batch(k)
            for own in self.shares(k):
                yield batch[own.start : own.stop]
            k += 1

    def batch(self, k: int) -> list[tuple[int, int]]:
        """The (index, epoch) pairs of batch k, of all processes together."""
        bucket, positions = self._stretch(k)
        size = int(self.sizes[bucket])
        return [(int(self._permutation(bucket, p // size)[p % size]), p // size) for p in positions]

    def size(self, k: int) -> int:
        """The number of clips in batch k, of all processes together."""
        return len(self._stretch(k)[1])

    def shares(self, k: int) -> list[range]:
        """Where in batch k the clips of this process lie, a range for each part."""
        size, part = self.size(k), self.batch_size // self.parts
        own = part // self.world_size
        firsts = range(self.rank * own, size, part)
        return [range(first, min(first + own, size)) for first in firsts]

    def batches_before(self, epoch: int) -> int:
        """Batches in all epochs before this one."""
        return int(self._finished(epoch).sum())

    def epoch_of(self, k: int) -> int:
        """The epoch that batch k belongs to."""
        enough = (k + 1) * self.batch_size + 1  # by then even a bucket of one clip has made k + 1 batches
        return bisect_right(range(enough), k, key=self.batches_before) - 1

    def steps(self, epochs: int) -> int:
        """Batches until so many epochs are done."""
        if self.last_batch == "smaller":
            return self.batches_before(epochs)
        return -(-epochs * self.num_clips // self.batch_size)

    @property
    def is_uniform(self) -> bool:
        """Whether all batches have one shape."""
        return len(self.buckets) == 1

    def heaviest(self) -> tuple[str, list[int]]:
        """In words what takes the most memory, and clips of it, as many as a process gets at once."""
        largest = max(map(Bucket._make, self.buckets), key=lambda bucket: bucket.pixels)
        clips, size = self.members[self.buckets.index(largest)], self.batch_size // self.parts // self.world_size
        words = f"largest bucket, {largest.in_words()}, with --batch_size {size}"
        return words, [int(clips[row % len(clips)]) for row in range(size)]

    def notes(self) -> list[str]:
        """In words how the clips lie in buckets, where there are several."""
        notes = []
        for bucket, clips in sorted(zip(self.buckets, self.sizes.tolist(), strict=True)):
            steps = clips / self.batch_size if self.last_batch == "wait" else -(-clips // self.batch_size)
            few = f", fewer than the {self.batch_size} of a step: a step has some of them twice" if steps < 1 else ""
            notes.append(f"bucket {Bucket(*bucket).in_words()}: {clips} clips, {steps:.4g} steps an epoch{few}")
        return notes if len(notes) > 1 else []

    def _finished(self, epoch: int) -> np.ndarray:
        """How many batches each bucket has made before an epoch."""
        if self.last_batch == "smaller":
            return epoch * -(-self.sizes // self.batch_size)
        return epoch * self.sizes // self.batch_size

    def _stretch(self, k: int) -> tuple[int, range]:
        """The bucket of batch k, and the positions in that bucket's endless stream that make the batch."""
        if not 0 <= k - self._latest.first < len(self._latest.order):
            self._latest = self._epoch(self.epoch_of(k))
        epoch = self._latest
        number = int(epoch.order[k - epoch.first])
        bucket = int(np.searchsorted(epoch.upto, number, side="right"))
        nth = int(epoch.before[bucket]) + number - int(epoch.upto[bucket - 1] if bucket else 0)
        size = int(self.sizes[bucket])
        if self.last_batch == "wait":
            return bucket, range(nth * self.batch_size, (nth + 1) * self.batch_size)
        passes, nth = divmod(nth, -(-size // self.batch_size))
        first = passes * size + nth * self.batch_size
        return bucket, range(first, min(first + self.batch_size, (passes + 1) * size))

    def _epoch(self, epoch: int) -> "_Epoch":
        before = self._finished(epoch)
        upto = np.cumsum(self._finished(epoch + 1) - before)
        order = np.arange(upto[-1], dtype=np.int32)
        if len(self.sizes) > 1:
            np.random.default_rng((self.seed, 2, epoch)).shuffle(order)
            if self.last_batch == "wait":  # batches that begin with clips of the epoch before come first
                starts = np.concatenate([[0], upto[:-1]])
                late = starts[(epoch * self.sizes % self.batch_size > 0) & (upto > starts)]
                first = np.isin(order, late)
                order = np.concatenate([order[first], order[~first]])
        return _Epoch(self.batches_before(epoch), before, upto, order)

    def _permutation(self, bucket: int, epoch: int) -> np.ndarray:
        """A bucket's clips in the order of an epoch."""
        key = bucket, epoch
        if key not in self._permutations:
            for old in [other for other in self._permutations if other[0] == bucket and other[1] < epoch - 1]:
                del self._permutations[old]
            rng = np.random.default_rng((self.seed, 1, bucket, epoch))
            self._permutations[key] = rng.permutation(self.members[bucket])
        return self._permutations[key]


class _Epoch(NamedTuple):
    """The batches of one epoch. Each has a number, which counts through the buckets."""

    first: int  # batch of the run
    before: np.ndarray  # [buckets], how many batches a bucket has made in earlier epochs
    upto: np.ndarray  # [buckets], batches of this epoch in the buckets up to and with this one
    order: np.ndarray  # the numbers, in the order the batches come
