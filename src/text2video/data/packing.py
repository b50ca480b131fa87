"""Which clips of many sizes make batch k of a run, in packs of about equal length, for any k, computed and not
remembered.

A clip is so many tokens long, a pack holds at most so many. Each epoch all clips are dealt anew to the same number of
packs: the longest first, each to the pack that is the emptiest so far (Graham 1969, longest processing time first),
which makes packs nearly equal; a little chance in the order gives every clip other company each time. The packs of all
epochs form an endless stream, which is cut into batches of one pack for each process and part. What is left over at
the end of an epoch waits, and comes first in the next one, so no clip is ever dropped.
"""

import heapq
from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import DataError

_ROOM = 0.02  # of a pack is left free, where there are many: the more, the more ways there are to deal
_CHANCE = (0.5, 0.2, 0.05, 0.0)  # how far a clip's place in the order may move, as a logarithm; tried in turn
_LAST = 2  # for each pack so many of the shortest clips are dealt last and in order, to even the packs out


class PackSampler:
    """Batches of packs of clips, in an order that follows from the seed alone.

    Like `BucketSampler` it yields lists of (index, epoch) from batch `start` on, without end, each list one pack. Every
    clip comes once an epoch. The order does not depend on how a batch is dealt out to processes and parts.

    Args:
        tokens: how long each clip is.
        tokens_per_pack: of all clips of a pack together, at most.
        seed: of the order.
        start: first batch, for resuming.
        rank, world_size: this process and their number.
        parts: packs that a process gets of each batch: the micro-steps of gradient accumulation.

    Raises:
        DataError: there are no clips, or some do not fit into a pack.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        tokens_per_pack: int,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
    ):
        self.tokens = np.asarray(tokens, np.int64)
        if not len(self.tokens):
            raise DataError("There are no clips to sample from. Check the data with `text2video data check`.")
        if large := int((self.tokens > tokens_per_pack).sum()):
            raise DataError(
                f"{large} of {len(self.tokens)} clips are longer than a pack of {tokens_per_pack} tokens, the longest "
                f"{self.tokens.max()}. Make --pack at least that, or videos smaller by --num_frames and --frame_size."
            )
        self.tokens_per_pack, self.seed, self.start = tokens_per_pack, seed, start
        self.rank, self.world_size, self.parts = rank, world_size, parts
        self.num_clips = len(self.tokens)
        packs = self.tokens.sum() / tokens_per_pack
        self.packs = min(max(int(np.ceil(packs)), int(packs / (1 - _ROOM))), self.num_clips)
        while self._dealt(np.argsort(-self.tokens)) is None:
            self.packs = min(self.packs + -(-self.packs // 100), self.num_clips)
        self._latest: dict[int, list[np.ndarray]] = {}  # packs by epoch

    @property
    def packs_per_batch(self) -> int:
        """Packs in a batch, of all processes and parts together."""
        return self.world_size * self.parts

    @property
    def batch_size(self) -> int:
        """Clips in a batch, on average."""
        return max(1, round(self.num_clips / self.packs * self.packs_per_batch))

    @property
    def full(self) -> float:
        """The share of the packs that the clips fill."""
        return float(self.tokens.sum() / (self.packs * self.tokens_per_pack))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        k = self.start
        while True:
            batch = self.batch(k)
            for own in self.shares(k):
                yield batch[own.start : own.stop]
            k += 1

    def batch(self, k: int) -> list[tuple[int, int]]:
        """The (index, epoch) pairs of batch k, of all processes together, pack after pack."""
        return [(int(index), epoch) for epoch, pack in self._packs(k) for index in pack]

    def size(self, k: int) -> int:
        """The number of clips in batch k, of all processes together."""
        return sum(len(pack) for _, pack in self._packs(k))

    def shares(self, k: int) -> list[range]:
        """Where in batch k the packs of this process lie, a range for each part."""
        ends = np.cumsum([0, *(len(pack) for _, pack in self._packs(k))]).tolist()
        return [range(ends[n], ends[n + 1]) for n in range(self.rank, self.packs_per_batch, self.world_size)]

    def batches_before(self, epoch: int) -> int:
        """Batches in all epochs before this one."""
        return epoch * self.packs // self.packs_per_batch

    def epoch_of(self, k: int) -> int:
        """The epoch that batch k belongs to: that of its last pack."""
        return ((k + 1) * self.packs_per_batch - 1) // self.packs

    def steps(self, epochs: int) -> int:
        """Batches until every clip was seen so many times."""
        return -(-epochs * self.packs // self.packs_per_batch)

    @property
    def is_uniform(self) -> bool:
        """Whether all batches have one shape: packs hardly ever do."""
        return False

    def heaviest(self) -> tuple[str, list[int]]:
        """In words what takes the most memory, and such clips: a pack of the largest ones."""
        order = np.argsort(-self.tokens, kind="stable")
        fit = max(1, int(np.searchsorted(np.cumsum(self.tokens[order]), self.tokens_per_pack, side="right")))
        return f"pack of the largest clips, with --pack {self.tokens_per_pack}", order[:fit].tolist()

    def notes(self) -> list[str]:
        """In words how the clips lie in packs."""
        steps = self.packs / self.packs_per_batch
        return [
            f"{self.num_clips} clips of {self.tokens.min()} to {self.tokens.max()} tokens in {self.packs} packs of up "
            f"to {self.tokens_per_pack}, {self.full:.1%} full: {steps:.4g} steps an epoch"
        ]

    def _packs(self, k: int) -> list[tuple[int, np.ndarray]]:
        """(epoch, clips) of each pack of batch k."""
        places = [divmod(n, self.packs) for n in range(k * self.packs_per_batch, (k + 1) * self.packs_per_batch)]
        return [(epoch, self._epoch(epoch)[number]) for epoch, number in places]

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        """The packs of an epoch, in the order they come."""
        if epoch not in self._latest:
            rng = np.random.default_rng((self.seed, 3, epoch))
            moved, shuffled = rng.uniform(-1, 1, self.num_clips), rng.permutation(self.packs)
            # the last way is the one by which the number of packs was found, so it always succeeds
            ways = (self._dealt(self._order(moved, chance)) for chance in _CHANCE)
            dealt = next(packs for packs in ways if packs is not None)
            self._latest = {e: packs for e, packs in self._latest.items() if e == epoch - 1}
            self._latest[epoch] = [np.array(dealt[number], np.int32) for number in shuffled]
        return self._latest[epoch]

    def _order(self, moved: np.ndarray, chance: float) -> np.ndarray:
        """The longest clip first, but for chance: each may move so far times its own number from -1 to 1."""
        order = np.lexsort((moved, -self.tokens))
        rest = max(self.num_clips - _LAST * self.packs, self.num_clips // 2)
        first = order[:rest]
        return np.concatenate([first[np.argsort(chance * moved[first] - np.log(self.tokens[first]))], order[rest:]])

    def _dealt(self, order: np.ndarray) -> list[list[int]] | None:
        """Clips dealt in this order, each to the emptiest pack; None where one would overflow."""
        packs: list[list[int]] = [[] for _ in range(self.packs)]
        filled = [(0, number) for number in range(self.packs)]  # a heap
        for index, length in zip(order.tolist(), self.tokens[order].tolist(), strict=True):
            already, number = filled[0]
            if already + length > self.tokens_per_pack:
                return None
            packs[number].append(index)
            heapq.heapreplace(filled, (already + length, number))
        return packs
