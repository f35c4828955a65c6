"""The weights with the best held-out loss so far, and when to stop waiting for better ones."""

from collections.abc import Callable, Mapping

from torch import Tensor

from cogvx.errors import IntegrityError
from cogvx.runs.saved import Best

Weights = Mapping[str, Tensor]


class Patience:
    """Remembers the best measurement; without patience it remembers nothing, and never ends.

    Attributes:
        best: The best measurement of trained weights; None before there is one.
        weights: Those weights, by name, on the CPU; empty while there are none.
    """

    best: Best | None
    weights: Weights

    def __init__(self, patience: int, *, best: Best | None, weights: Weights) -> None:
        """Go on from what a checkpoint kept; `patience` 0 keeps nothing.

        Raises:
            IntegrityError: The weights of the best measurement are absent.
        """
        if best is not None and not weights:
            raise IntegrityError(
                f"the checkpoint lacks the best weights, those of step {best.step}"
            )
        self._patience = patience
        self.best = best
        self.weights = weights

    def lacks(self, step: int) -> bool:
        """Whether a measurement after update `step` would be news."""
        return bool(self._patience and step and (self.best is None or self.best.measured < step))

    def note(self, step: int, loss: float, *, weights: Callable[[], Weights]) -> None:
        """Take in the measurement after update `step`; `weights` copies what was measured.

        A step that was measured before, by a start that was killed since, counts once.
        """
        if not self.lacks(step):
            return
        if self.best is None or loss < self.best.loss:
            self.best = Best(step=step, loss=loss, measured=step)
            self.weights = weights()
        else:
            worse = self.best.worse + 1
            self.best = self.best.model_copy(update={"measured": step, "worse": worse})

    @property
    def is_over(self) -> bool:
        """Whether so many measurements in a row were no better than the best before them."""
        return bool(self._patience and self.best and self.best.worse >= self._patience)
