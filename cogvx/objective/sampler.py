"""Which windows an update sees: a pure function of the seed and of its number.

An update takes its global batch from one bucket, since windows of different sizes cannot be
stacked: from the bucket that is furthest behind its share of the windows. So after every N updates,
N windows in all, a bucket of n windows has had n of them, and each window was seen equally often.

The windows of a bucket stand in one endless line of epochs, each epoch in its own order. The
bucket's updates take the next `global_batch` of them; position p of the batch belongs to
micro-batch p // (processes x micro_batch), and within it to process p // micro_batch. So the lines,
and what each position draws, do not depend on processes, on accumulation, or on how often the run
was interrupted. An update may straddle two epochs; no window is left out at an epoch's end.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import gcd
from typing import Self

import torch

from cogvx.errors import DataError
from cogvx.objective.randomness import generator
from cogvx.recipe_sections import TrainConfig

# Of each bucket: a batch may straddle two epochs, batches are drawn ahead, log lines look back.
_EPOCHS_AT_HAND = 4


@dataclass(frozen=True)
class Sampler:
    """The order of windows under one training section; `buckets` holds the windows' numbers.

    Raises:
        DataError: There is nothing to train on.
    """

    buckets: tuple[tuple[int, ...], ...]
    train: TrainConfig
    _order: Callable[[int, int, int], tuple[int, ...]] = field(
        init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, sizes: Sequence[Hashable], train: TrainConfig) -> Self:
        """Sort windows into buckets by their sizes, which stand in the windows' order."""
        buckets: dict[Hashable, list[int]] = {}
        for number, size in enumerate(sizes):
            buckets.setdefault(size, []).append(number)
        return cls(tuple(tuple(bucket) for bucket in buckets.values()), train)

    def __post_init__(self) -> None:
        if not self.buckets:
            raise DataError(
                "no clip is left to train on; add clips, or lower dataset.heldout_share"
            )
        kept = lru_cache(maxsize=_EPOCHS_AT_HAND * len(self.buckets))
        object.__setattr__(self, "_order", kept(_order))

    def positions(self, micro: int, rank: int) -> range:
        """Positions in the global batch of one process's micro-batch."""
        size = self.train.micro_batch
        first = (micro * self.train.processes + rank) * size
        return range(first, first + size)

    def clip(self, step: int, position: int) -> int:
        """Number of the window at a position of update `step`, counted from 0."""
        turns = _turns(tuple(len(bucket) for bucket in self.buckets))
        rounds, within = divmod(step, len(turns))
        index, turn, turns_a_round = turns[within]
        bucket = self.buckets[index]
        place = (rounds * turns_a_round + turn) * self.train.global_batch + position
        epoch, at = divmod(place, len(bucket))
        return bucket[self._order(len(bucket), self.train.seed, epoch)[at]]

    def epoch(self, step: int) -> float:
        """How often every window was seen after `step` updates, on average."""
        return step * self.train.global_batch / sum(len(bucket) for bucket in self.buckets)


@lru_cache(maxsize=4)
def _turns(counts: tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
    """One round of updates: each one's bucket, its turn in that bucket, the bucket's turns a round.

    Behind by most means the largest share x updates - turns taken; of equals the first bucket.
    Counted in whole numbers, so that a round ends exactly where it began, with nobody behind.
    """
    shares = [count // gcd(*counts) for count in counts]
    length = sum(shares)
    taken = [0] * len(shares)
    round_: list[tuple[int, int, int]] = []
    for number in range(1, length + 1):
        behind = [
            share * number - length * turns for share, turns in zip(shares, taken, strict=True)
        ]
        index = behind.index(max(behind))
        round_.append((index, taken[index], shares[index]))
        taken[index] += 1
    return tuple(round_)


def _order(windows: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = torch.randperm(windows, generator=generator(seed, "order", epoch))
    return tuple(order.tolist())
