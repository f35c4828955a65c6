"""Being asked to stop: remembered when the signal comes, acted on between two updates."""

import signal
from types import FrameType

import torch
from torch import distributed

EXIT_STOPPED = 128 + signal.SIGTERM


class Stop:
    """Whether somebody asked this run to end.

    A signal may come twice, at any moment, to some processes earlier than to others; and stdout may
    be closed by then, so the handler only sets a mark.
    """

    requested: bool
    _group: "distributed.ProcessGroup | None"

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self.requested = False
        self._group = None

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
        """Whether any process was asked; all get the same answer, so all stop at one update."""
        if self._group is None:
            return self.requested
        asked = torch.tensor([int(self.requested)])
        distributed.all_reduce(asked, op=distributed.ReduceOp.MAX, group=self._group)
        return bool(asked.item())

    def _mark(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
