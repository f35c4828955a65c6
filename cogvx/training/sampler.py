"""Which clips an update sees: a pure function of the seed and of its number.

The clips of all epochs stand in one endless line, each epoch in its own order. Update `s` takes the
next `global_batch` of them; position p of the batch belongs to micro-batch p // (processes x
micro_batch), and within it to process p // micro_batch. So the line, and what each position draws,
do not depend on processes, on accumulation, or on how often the run was interrupted. An update may
straddle two epochs; no clip is left out at an epoch's end.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch

from cogvx.errors import DataError
from cogvx.recipe import TrainConfig
from cogvx.training.randomness import generator


@dataclass(frozen=True)
class Sampler:
    """The order of `clips` clips under one training section.

    Raises:
        DataError: There is nothing to train on.
    """

    clips: int
    train: TrainConfig

    def __post_init__(self) -> None:
        if self.clips < 1:
            raise DataError(
                "no clip is left to train on; add clips, or lower dataset.heldout_share"
            )

    def positions(self, micro: int, rank: int) -> range:
        """Positions in the global batch of one process's micro-batch."""
        size = self.train.micro_batch
        first = (micro * self.train.processes + rank) * size
        return range(first, first + size)

    def clip(self, step: int, position: int) -> int:
        """Number of the clip at a position of update `step`, counted from 0."""
        place = step * self.train.global_batch + position
        epoch, within = divmod(place, self.clips)
        return _order(self.clips, self.train.seed, epoch)[within]

    def epoch(self, step: int) -> float:
        """How often every clip was seen after `step` updates."""
        return step * self.train.global_batch / self.clips


@lru_cache(maxsize=4)
def _order(clips: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = torch.randperm(clips, generator=generator(seed, "order", epoch))
    return tuple(order.tolist())
