"""Run a command that knows how to end what it started, as the first process of a Kubernetes Job.

    python -m tasks.clients.forward [--grace SECONDS] -- prefect flow-run execute

A pod that is evicted gets SIGTERM. `prefect flow-run execute` then tells its flow run that it will
be scheduled again, and ends it: told itself at the same moment, the flow run would call itself
crashed. So the command alone is told here, and what it leaves behind is ended once it is gone.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from tasks.clients.supervise import GRACE_SECONDS, Supervisor, send


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code to end with."""
    parser = argparse.ArgumentParser(prog="python -m tasks.clients.forward")
    parser.add_argument("--grace", type=float, default=GRACE_SECONDS, help="seconds for all of it")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    return Forwarder(grace=options.grace).run(options.command)


class Forwarder(Supervisor):
    """One command, told of a stop before anything below it."""

    _is_told: bool
    _is_rest_told: bool

    def __init__(self, *, grace: float) -> None:
        """Nothing is started yet; `grace` is how many seconds the whole tree may take to end."""
        super().__init__(parent=os.getppid(), keeper=None, grace=grace)
        self._is_told = False
        self._is_rest_told = False

    def end(self, tree: Sequence[int]) -> None:
        """Tell the command, then what it left; called again until nothing is left."""
        if self.is_late:
            send(signal.SIGKILL, tree)
        elif self.child in tree:
            if not self._is_told:
                self._is_told = True
                self.wait(self.grace)
                send(signal.SIGTERM, [self.child])
        elif not self._is_rest_told:
            self._is_rest_told = True
            if not self._is_told:
                self.wait(self.grace)
            send(signal.SIGTERM, tree)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
