"""Sums over the updates since the last log line, part of every checkpoint.

Values are added one by one, in the order of the global batch, so that the same numbers come out
wherever a run was interrupted and however its samples were spread over processes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict

BANDS = 8
"""Equal parts of the timesteps, for each of which the loss is told apart."""

_MEMORY = 50  # samples that a running mean is over, about


@dataclass(frozen=True)
class Seen:
    """One update: the loss and timestep of each sample of the global batch, the gradient's norm."""

    losses: Sequence[float]
    timesteps: Sequence[int]
    grad_norm: float

    @property
    def is_finite(self) -> bool:
        """Whether the weights could be moved by it."""
        return math.isfinite(self.grad_norm) and all(map(math.isfinite, self.losses))


class Tally(BaseModel):
    """What was seen since the last log line, by band; `running` and `seen` since the run began.

    Only finite numbers count. A running mean is the plain mean of the first 50 samples of a band,
    and then lets each further one in with a fiftieth.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    losses: tuple[float, ...] = (0.0,) * BANDS
    counts: tuple[int, ...] = (0,) * BANDS
    norms: float = 0.0
    norm_count: int = 0
    norm_max: float = 0.0
    running: tuple[float, ...] = (0.0,) * BANDS
    seen: tuple[int, ...] = (0,) * BANDS

    def plus(self, updates: Sequence[Seen], *, timesteps: int) -> Self:
        """With further updates, in their order; `timesteps` is the length of the schedule."""
        losses, counts = list(self.losses), list(self.counts)
        running, seen = list(self.running), list(self.seen)
        norms, norm_count, norm_max = self.norms, self.norm_count, self.norm_max
        for update in updates:
            for loss, timestep in zip(update.losses, update.timesteps, strict=True):
                if math.isfinite(loss):
                    band = timestep * BANDS // timesteps
                    losses[band] += loss
                    counts[band] += 1
                    seen[band] += 1
                    running[band] += (loss - running[band]) / min(seen[band], _MEMORY)
            if math.isfinite(update.grad_norm):
                norms += update.grad_norm
                norm_count += 1
                norm_max = max(norm_max, update.grad_norm)
        return self.model_copy(
            update={
                "losses": tuple(losses),
                "counts": tuple(counts),
                "norms": norms,
                "norm_count": norm_count,
                "norm_max": norm_max,
                "running": tuple(running),
                "seen": tuple(seen),
            }
        )

    def next_window(self) -> Self:
        """Empty but for what runs on."""
        return type(self)(running=self.running, seen=self.seen)

    @property
    def loss(self) -> float | None:
        """Mean over all samples of the window; None while there are none."""
        samples = sum(self.counts)
        return sum(self.losses) / samples if samples else None

    def values(self, *, timesteps: int) -> dict[str, float]:
        """The window's numbers by name; what nothing was seen of is absent.

        `loss_balanced` is the mean of the running means of all bands: it does not depend on which
        timesteps happened to be drawn.
        """
        values = {} if self.loss is None else {"loss": self.loss}
        if all(self.seen):
            values["loss_balanced"] = sum(self.running) / BANDS
        names = band_names(timesteps)
        for name, loss, count in zip(names, self.losses, self.counts, strict=True):
            if count:
                values[name] = loss / count
        for name, mean, count in zip(names, self.running, self.seen, strict=True):
            if count:
                values[f"{name}_running"] = mean
        if self.norm_count:
            values["grad_norm"] = self.norms / self.norm_count
            values["grad_norm_max"] = self.norm_max
        return values


def band_names(timesteps: int) -> tuple[str, ...]:
    """Names of the bands' losses, `loss_t000_124` the first of 1000 timesteps."""
    first = [-(-band * timesteps // BANDS) for band in range(BANDS + 1)]
    return tuple(f"loss_t{first[band]:03d}_{first[band + 1] - 1:03d}" for band in range(BANDS))
