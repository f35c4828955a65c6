"""Being asked to stop: remembered when it happens, acted on before the next micro-batch.

There are two ways: a signal, or `train.max_hours` being over. Both save a checkpoint and end this
start of the run; another start goes on from there.
"""

import signal
import time
from types import FrameType

import torch
from torch import distributed

from cogvx.runs.folder import StopReason

EXIT_STOPPED = 128 + signal.SIGTERM
_SECONDS_AN_HOUR = 3600.0
_REASONS: tuple[StopReason, ...] = ("max_hours", "signal")  # a signal outranks the clock


class Stopping(Exception):  # noqa: N818 - a way out of an update rather than a fault
    """All processes have agreed to stop, so the update that they are in is given up."""


class Stop:
    """Whether this start of the run is to end.

    A signal may come twice, at any moment, to some processes earlier than to others; and stdout may
    be closed by then, so the handler only sets a mark. Clocks differ too, so processes agree.

    Attributes:
        reason: What they agreed to stop for; None while they go on.
    """

    reason: StopReason | None
    _asked: bool
    _began: float
    _seconds: float | None
    _group: "distributed.ProcessGroup | None"

    def __init__(self) -> None:
        """Nobody has asked yet; the time of this start counts from here, loading included."""
        self.reason = None
        self._asked = False
        self._began = time.monotonic()
        self._seconds = None
        self._group = None

    @property
    def requested(self) -> bool:
        """Whether this process was asked, or its time is over; others may not know it yet."""
        return self._asked or self._is_over()

    def ask(self) -> None:
        """Ask for a stop, as a signal does."""
        self._asked = True

    def limit(self, hours: float | None) -> None:
        """End this start after so many hours; None never."""
        self._seconds = None if hours is None else hours * _SECONDS_AN_HOUR

    def listen(self) -> None:
        """Take SIGTERM and SIGINT as requests; call it in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._mark)

    def join(self, processes: int) -> None:
        """Let several processes agree; called once by each of them, after they have met."""
        if processes > 1:
            # over gloo, whatever the gradients use: asking must not wait for the GPU
            self._group = distributed.new_group(backend="gloo")

    def agreed(self) -> bool:
        """Whether any process is to stop; all get the same answer, so all stop at one place.

        Every process calls it as often as the others, before each micro-batch.
        """
        rank = 2 if self._asked else 1 if self._is_over() else 0
        if self._group is not None:
            ranks = torch.tensor([rank])
            distributed.all_reduce(ranks, op=distributed.ReduceOp.MAX, group=self._group)
            rank = int(ranks.item())
        self.reason = _REASONS[rank - 1] if rank else None
        return rank > 0

    def _is_over(self) -> bool:
        return self._seconds is not None and time.monotonic() - self._began >= self._seconds

    def _mark(self, _number: int, _frame: FrameType | None) -> None:
        self.ask()
