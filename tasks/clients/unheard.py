"""A flow run whose worker has died prints into nothing from then on.

The worker reads what its flow runs print. Once it is dead, the next line breaks the process that
prints it: before it could say in Prefect how it ended, so that it would be called Running for ever.

Source: prctl(2), PR_SET_PDEATHSIG.
"""

import os
import signal
import sys
import threading
from functools import partial
from itertools import cycle

from tasks.clients.supervise import ask_of_parents_death

_PRINTED = (1, 2)  # standard output, standard error


def outlive(worker: int) -> None:
    """Print into nothing as soon as this parent dies; only on Linux, from the main thread.

    The kernel tells by SIGUSR1. A SIGTERM of the same moment is heard after it and finds it done:
    a handler in Python would be interrupted by that of SIGTERM before its first line.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    redirects = map(os.dup2, cycle((nowhere,)), cycle(_PRINTED))
    # Called with a number and a frame, `max` asks its key twice: for the next of both redirects.
    # That may be again: the kernel tells of every parent that dies, also of one that adopted us.
    signal.signal(signal.SIGUSR1, partial(max, key=partial(next, redirects)))
    ask_of_parents_death(signal.SIGUSR1)
    if os.getppid() != worker:
        print_into_nothing()


def print_into_nothing() -> None:
    """Let what this process prints be lost, rather than be an error with each line."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for printed in _PRINTED:
        os.dup2(nowhere, printed)
    os.close(nowhere)
