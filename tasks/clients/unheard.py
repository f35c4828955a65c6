"""A flow run whose worker has died prints into nothing from then on.

The worker reads what its flow runs print. Once it is dead, the next line breaks the process that
prints it: before it could say in Prefect how it ended, so that it would be called Running for ever.

Source: prctl(2), PR_SET_PDEATHSIG.
"""

import os
import signal
import sys
import threading
from types import FrameType

from tasks.clients.supervise import ask_of_parents_death


def outlive(worker: int) -> None:
    """Print into nothing as soon as this parent dies; only on Linux, from the main thread.

    The kernel tells by SIGUSR1. A SIGTERM of the same moment is heard after it.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGUSR1, _hear)
    ask_of_parents_death(signal.SIGUSR1)
    if os.getppid() != worker:
        print_into_nothing()


def print_into_nothing() -> None:
    """Let what this process prints be lost, rather than be an error with each line."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for printed in (1, 2):
        os.dup2(nowhere, printed)
    os.close(nowhere)


def _hear(_number: int, _frame: FrameType | None) -> None:
    print_into_nothing()
