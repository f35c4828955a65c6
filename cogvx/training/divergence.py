"""Updates that were skipped, since their loss or gradient was no number, and when that is the end.

Whether an update is skipped is decided on the device, by the norm of the exchanged gradient, which
all processes share: see `loop.update`. What is here reads of it afterwards.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cogvx.errors import TrainingDiverged
from cogvx.runs.tally import Seen

_ADVICE = (
    "the last good checkpoint is kept. Lower train.learning_rate, lengthen train.warmup_steps, or "
    "check base.dtype"
)


@dataclass(frozen=True)
class Skip:
    """An update that was left out: its number, the first being 1, and why."""

    step: int
    reason: str


@dataclass(frozen=True)
class Skips:
    """How many updates were skipped, and how many of the last ones without a good one since."""

    total: int = 0
    in_a_row: int = 0

    def plus(
        self, updates: Sequence[Seen], *, last_step: int, most: float
    ) -> tuple["Skips", tuple[Skip, ...]]:
        """Count further updates.

        Args:
            updates: Consecutive ones, oldest first.
            last_step: Number of the last of them.
            most: That many in a row are borne.

        Returns:
            The count with them, and those of them that were skipped.

        Raises:
            TrainingDiverged: There were more in a row, naming the first that is too many.
        """
        total, in_a_row, skipped = self.total, self.in_a_row, []
        for step, update in enumerate(updates, start=last_step - len(updates) + 1):
            if update.is_finite:
                in_a_row = 0
                continue
            total, in_a_row = total + 1, in_a_row + 1
            skipped.append(Skip(step, reason_of(update)))
            if in_a_row > most:
                raise TrainingDiverged(
                    f"{skipped[-1].reason} at step {step}, and {in_a_row} update(s) in a row were "
                    f"skipped like it, which is more than train.max_skipped = {most:g}; {_ADVICE}"
                )
        return Skips(total, in_a_row), tuple(skipped)


def reason_of(update: Seen) -> str:
    """What was no number: the loss where it can be told, since the gradient only follows it."""
    odd = [loss for loss in update.losses if not math.isfinite(loss)]
    return f"the loss is {odd[0]}" if odd else f"the gradient's norm is {update.grad_norm}"


def require_finite_weights(tensors: Mapping[str, Tensor], *, step: int) -> None:
    """Refuse to save what could not be trained on: an update overflowed though it was finite.

    Raises:
        TrainingDiverged: Naming a tensor.
    """
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise TrainingDiverged(f"{name} is not finite after step {step}; {_ADVICE}")
