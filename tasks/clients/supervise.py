"""Run a command so that nothing it started outlives whoever asked for it.

    python -m tasks.clients.supervise [--parent PID] [--keeper PID] [--grace SECONDS]
        [--env NAME=VALUE] -- COMMAND [ARGUMENT ...]

Launchers of training start processes of their own, in sessions of their own, and forward signals
badly or not at all: killing the launcher, or its process group, leaves trainers behind that hold
GPUs. So this process adopts every orphan below it, hears of its parent's death, sees when the
parent has lost its keeper, and then, or when it is told to stop, sends SIGTERM to the whole tree,
waits for checkpoints to be saved, and sends SIGKILL to the rest. It ends with the command's exit
code, or 128 + n after signal n.

Only the standard library is imported, so that it starts at once and cannot fail with the rest. On
systems other than Linux only the command itself is looked after, and it says so.

Source: prctl(2), PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER; proc(5), stat.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 25.0  # Prefect's workers kill after 30

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.1
_PROC = Path("/proc")


def main(arguments: Sequence[str]) -> int:
    """Supervise the command; returns the exit code to end with."""
    parser = argparse.ArgumentParser(prog="python -m tasks.clients.supervise")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="end when it has ended")
    parser.add_argument("--keeper", type=int, help="end when the parent has another parent")
    parser.add_argument("--grace", type=float, default=GRACE_SECONDS, help="seconds to save in")
    parser.add_argument("--env", action="append", default=[], help="for the command, NAME=VALUE")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    for setting in options.env:
        name, _, value = setting.partition("=")
        os.putenv(name, value)  # added to what is handed down; nothing is read here
    supervisor = Supervisor(parent=options.parent, keeper=options.keeper, grace=options.grace)
    return supervisor.run(options.command)


class Supervisor:
    """One command and everything below it.

    Attributes:
        parent: Process whose end is the command's end.
        keeper: The parent's parent, if its end counts as well: a flow run outlives the worker that
            started it, and nobody could stop it then.
        grace: Seconds between SIGTERM and SIGKILL.
        child: The command's process, once it runs.
    """

    parent: int
    keeper: int | None
    grace: float
    child: int
    _asked: bool
    _deadline: float | None

    def __init__(self, *, parent: int, keeper: int | None, grace: float) -> None:
        """Nothing is started yet."""
        self.parent = parent
        self.keeper = keeper
        self.grace = grace
        self.child = 0
        self._asked = False
        self._deadline = None

    def run(self, command: Sequence[str]) -> int:
        """Start the command, wait for its whole tree, return the exit code to end with."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask)
        _watch_family()
        child = subprocess.Popen(command)
        self.child = child.pid
        code: int | None = None
        while True:
            ended = reap()
            code = ended.get(child.pid, code)
            # an orphan whose command has ended has nobody left to work for
            if self._asked or code is not None or self._is_deserted():
                # reads all of /proc: only now, or each supervisor costs a tenth of a core
                tree = descendants(os.getpid(), child.pid)
                if code is not None and not tree:
                    return code
                self.end(tree)
            time.sleep(_POLL_SECONDS)

    def _is_deserted(self) -> bool:
        if os.getppid() != self.parent:
            return True
        # a number may be given to another process, but nobody's parent becomes that one
        return self.keeper is not None and _parent_of_living(_PROC / str(self.parent)) not in (
            self.keeper,
            None,  # there is no /proc, or the kernel is about to tell of the parent's death
        )

    def end(self, tree: Sequence[int]) -> None:
        """Ask once, and insist when the time is up; called again until nothing is left."""
        if self._deadline is None:
            self.wait(self.grace)
            send(signal.SIGTERM, tree)
        elif self.is_late:
            send(signal.SIGKILL, tree)

    def wait(self, seconds: float) -> None:
        """From now on, be patient for so long."""
        self._deadline = time.monotonic() + seconds

    @property
    def is_late(self) -> bool:
        """Whether patience is over."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True


def descendants(root: int, *more: int) -> list[int]:
    """Living processes below `root`, by /proc; without it, those of `more` that are alive."""
    if not (_PROC / "self" / "stat").is_file():
        return [pid for pid in more if _is_alive(pid)]
    living = _living_by_parent()
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = living.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def children(parent: int) -> list[int]:
    """Living processes directly below this one, by /proc; none without it."""
    return _living_by_parent().get(parent, []) if _PROC.joinpath("self", "stat").is_file() else []


def _living_by_parent() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (parent := _parent_of_living(entry)) is not None:
            found.setdefault(parent, []).append(int(entry.name))
    return found


def send(number: signal.Signals, pids: Sequence[int]) -> None:
    """Send a signal to each process that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def reap() -> dict[int, int]:
    """Collect every child that has ended, adopted ones too: exit code, or 128 + n, by process."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            code = os.waitstatus_to_exitcode(status)
            ended[pid] = code if code >= 0 else 128 - code
    return ended


def _parent_of_living(entry: Path) -> int | None:
    """The parent of a process, or None for one that has ended, reaped or not."""
    try:
        # the name stands in brackets and may hold anything, so count from the last one
        fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[1])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _watch_family() -> None:
    """Ask the kernel for the parent's death as SIGTERM, and for every orphan below."""
    if sys.platform != "linux":
        sys.stderr.write(
            "supervise: this is not Linux, so only the command itself is stopped, and only while "
            "this process lives\n"
        )
        return
    ask_of_parents_death(signal.SIGTERM)
    adopt_orphans()


def ask_of_parents_death(number: signal.Signals) -> None:
    """Have the kernel send a signal to this process when its parent dies; only on Linux."""
    _ask_kernel(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Be the parent of every process below this one that loses its own; only on Linux."""
    if sys.platform == "linux":
        _ask_kernel(_PR_SET_CHILD_SUBREAPER, 1)


def _ask_kernel(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, int(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
