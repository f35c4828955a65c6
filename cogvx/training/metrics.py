"""Numbers of the last updates, taken off the device only when they are written down."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from cogvx.errors import TrainingDiverged


@dataclass
class LossWindow:
    """Losses and gradient norms since the last log line, oldest first, still on the device.

    A resumed run has the losses from before its checkpoint, but not the norms.
    """

    losses: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, losses: Sequence[float], device: torch.device) -> Self:
        """Rebuild a window from what a checkpoint kept."""
        return cls(losses=[torch.tensor(loss, device=device) for loss in losses])

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Keep the numbers of one update of this process."""
        self.losses.append(loss.detach())
        self.norms.append(norm.detach())


def require_finite(name: str, values: Sequence[float], *, last_step: int) -> None:
    """Stop a run in which something is no number any more.

    Args:
        name: What the values are, for the sentence.
        values: Of consecutive updates.
        last_step: Number of the last of them, the first update of a run being 1.

    Raises:
        TrainingDiverged: Naming the first such update.
    """
    for step, value in enumerate(values, start=last_step - len(values) + 1):
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the {name} of step {step} is {value}; the last good checkpoint is kept. Lower "
                "train.learning_rate, lengthen train.warmup_steps, or check base.dtype"
            )
