"""Processes by number and birth: the number of one that has ended is given to another.

What is written down of a process finds it again, from another command or after a restart of the
machine, and never a stranger.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import psutil
from pydantic import BaseModel, ConfigDict

from tasks.clients.supervise import descendants, send

_PROC = Path("/proc")
_BOOT = _PROC / "sys/kernel/random/boot_id"
_POLL_SECONDS = 0.1
_DYING_SECONDS = 10.0  # to give memory back; one that waits for a device may take for ever


class Mark(BaseModel):
    """One process, for as long as machines run: its number, and when it was born."""

    model_config = ConfigDict(frozen=True)

    pid: int
    born: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The process that has this number now; None if it has ended, or nobody has."""
        born = _born(pid)
        return None if born is None else cls(pid=pid, born=born)

    @property
    def lives(self) -> bool:
        """Whether this very process has not ended."""
        return _born(self.pid) == self.born


def me() -> Mark:
    """This process."""
    mark = Mark.of(os.getpid())
    assert mark is not None
    return mark


def end(
    marks: Sequence[Mark],
    *,
    grace: float,
    insists: Callable[[], bool] = lambda: False,
) -> list[Mark]:
    """Ask processes to stop, wait for them, and kill those that do not, with all below them.

    Args:
        marks: Those that have ended already are left out.
        grace: Seconds between asking and killing.
        insists: Asked meanwhile; True ends the waiting.

    Returns:
        Those that had to be killed; they are dead by now, unless a device holds them.
    """
    living = [mark for mark in marks if mark.lives]
    send(signal.SIGTERM, [mark.pid for mark in living])
    until = time.monotonic() + grace
    while living and time.monotonic() < until and not insists():
        time.sleep(_POLL_SECONDS)
        living = [mark for mark in living if mark.lives]
    killed = [mark for mark in living if mark.lives]
    below = [descendants(mark.pid) for mark in killed]
    dying = killed + [mark for pids in below for pid in pids if (mark := Mark.of(pid))]
    send(signal.SIGKILL, [mark.pid for mark in dying])
    until = time.monotonic() + _DYING_SECONDS
    while any(mark.lives for mark in dying) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    return killed


def listener(port: int) -> psutil.Process | None:
    """The process of this user that listens on a port; None if nobody does, or a stranger."""
    for process in psutil.process_iter():
        try:
            found = process.net_connections(kind="tcp")
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in found):
            return process
    return None


def _born(pid: int) -> str | None:
    """What no other process with this number has; None for one that has ended, reaped or not."""
    if not _BOOT.is_file():
        try:
            return f"{psutil.Process(pid).create_time():.2f}"
        except psutil.NoSuchProcess:
            return None
    try:
        # the name stands in brackets and may hold anything, so count from the last one
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in {"Z", "X"}:
        return None
    return f"{_BOOT.read_text().strip()}/{fields[19]}"
