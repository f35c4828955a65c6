"""Run a Prefect worker so that its flow runs end well when it is stopped.

    python -m tasks.clients.tend [--grace SECONDS] [--env NAME=VALUE]
        -- prefect worker start --pool NAME

A worker of a process pool that is told to stop kills its flow runs at that moment: nothing more
reaches the store, and Prefect goes on calling them Running. So the one whom systemd, a container or
a person tells is this process. It freezes the worker, which then neither kills nor takes another
run; asks each flow run to end, which saves a checkpoint, stores it and says in Prefect that it was
ended; and when all are gone, or the time is up, ends the worker.

It also looks after the worker as `supervise` does: whatever a worker leaves behind when it is
killed is ended here, and the worker ends with whoever started this process.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import Literal

from tasks.clients.supervise import GRACE_SECONDS, Supervisor, children, descendants, send

# A trainer saves, then its checkpoint has two minutes to reach the store.
TENDING_SECONDS = GRACE_SECONDS + 125.0

_WORKER_SECONDS = 15.0  # an idle worker takes two


def main(arguments: Sequence[str]) -> int:
    """Tend the worker; returns the exit code to end with."""
    parser = argparse.ArgumentParser(prog="python -m tasks.clients.tend")
    parser.add_argument("--grace", type=float, default=TENDING_SECONDS, help="seconds for its runs")
    parser.add_argument("--env", action="append", default=[], help="for the worker, NAME=VALUE")
    parser.add_argument("command", nargs="+", help="a worker's command")
    options = parser.parse_args(arguments)
    for setting in options.env:
        name, _, value = setting.partition("=")
        os.putenv(name, value)
    return Tender(grace=options.grace).run(options.command)


class Tender(Supervisor):
    """One worker and its flow runs."""

    _step: Literal["at work", "runs end", "worker ends"]

    def __init__(self, *, grace: float) -> None:
        """Nothing is started yet; `grace` is how many seconds its flow runs may take to end."""
        super().__init__(parent=os.getppid(), keeper=None, grace=grace)
        self._step = "at work"

    def end(self, tree: Sequence[int]) -> None:
        """Freeze the worker, end its runs, end the worker; called again until nothing is left."""
        worker = self.child
        if self._step == "at work" and worker not in tree:
            super().end(tree)  # it has ended by itself; what it left has nobody to work for
        elif self._step == "at work":
            self._step = "runs end"
            self.wait(self.grace)
            send(signal.SIGSTOP, [worker])
            # its flow runs alone: each knows best how to end what it has started
            send(signal.SIGTERM, children(worker))
        elif self.is_late:
            send(signal.SIGKILL, tree)
        elif self._step == "runs end" and not descendants(worker):
            self._step = "worker ends"
            self.wait(_WORKER_SECONDS)
            send(signal.SIGTERM, [worker])  # first: once it wakes, it is to take no other run
            send(signal.SIGCONT, [worker])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
