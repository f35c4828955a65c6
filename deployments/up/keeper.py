"""Keep services going: start them, see that they are well, start them again, stop them in order."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import FrameType

from cogvx.errors import ConfigError
from deployments.up.state import EXTRA_SECONDS, Desk, Phase, ServiceState, Status, UpState, now
from tasks.clients.processes import Mark, end
from tasks.clients.servers import Service, Started
from tasks.clients.supervise import adopt_orphans, children, descendants

logger = logging.getLogger(__name__)

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before a service that died is started again: the first time, the second, ..."""
FORGIVEN_SECONDS = 300.0
"""One that ran for so long may die as often again."""
STARTUP_SECONDS = 300.0
"""A server on a machine that does much else takes more than one minute."""

_POLL_SECONDS = 0.5
_WRITTEN = 2  # processes of a service that are written down


class Asked(Exception):  # noqa: N818 - no fault
    """A person or the system asked this process to stop."""


@dataclass
class _Kept:
    """One service, and how it fares."""

    service: Service
    started: Started
    status: Status
    since: datetime
    born: float  # time.monotonic() of its last start
    starts: int = 1
    deaths: int = 0  # since it last ran for long
    due: float = 0.0  # time.monotonic() at which it is started again


class Keeper:
    """The services of one home; what it knows is written down whenever it changes."""

    def __init__(self, desk: Desk, state: UpState) -> None:
        """Nothing is started yet; signals that ask to stop are obeyed from here on.

        Raises:
            OSError: The state cannot be written, so that no other command would find this.
        """
        self._desk = desk
        self._state = state
        self._kept: list[_Kept] = []
        self._asked = threading.Event()
        self._insists = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask)
        adopt_orphans()
        # Of whoever runs a keeper beside other things, as tests do: not the keeper's to end.
        self._others = children(os.getpid())
        self._is_unwritten = False
        desk.write(state)

    def enter(self, phase: Phase) -> None:
        """Say to whoever reads the state how far this is."""
        self._state = self._state.model_copy(update={"phase": phase})
        self._write()

    def start(self, services: Sequence[Service]) -> None:
        """Start services; whether they are well is for `wait` to see."""
        for service in services:
            started = Started(service, self._desk.log(service.name))
            self._kept.append(_Kept(service, started, "starting", now(), time.monotonic()))
        self._write()

    def finish(self, service: Service) -> list[str]:
        """Start something that ends by itself, wait for that, and return the lines it printed.

        Raises:
            Asked: Meanwhile somebody asked to stop.
            ConfigError: It did not end well, with its last words; or another service ended.
        """
        log = self._desk.log(service.name)
        log.unlink(missing_ok=True)
        self.start([service])
        kept = self._kept[-1]
        while kept.started.code is None:
            self._require_all_alive()
            self.pause(_POLL_SECONDS)
        self._kept.remove(kept)
        if kept.started.code:
            raise _failed(kept, f"ended with code {kept.started.code}")
        return log.read_text(errors="replace").splitlines()

    def wait(self, name: str, is_well: Callable[[], bool]) -> float:
        """Wait until a service is well for the first time; returns the seconds since its start.

        Raises:
            Asked: Meanwhile somebody asked to stop.
            ConfigError: It, or another one, ended, or it was not well in time; with its last words.
        """
        (kept,) = [one for one in self._kept if one.service.name == name]
        while not is_well():
            self._require_all_alive()
            if time.monotonic() - kept.born > STARTUP_SECONDS:
                raise _failed(kept, f"was not well within {STARTUP_SECONDS:.0f} s")
            self.pause(_POLL_SECONDS)
        self._require_all_alive()
        kept.status = "running"
        self._write()
        return time.monotonic() - kept.born

    def pause(self, seconds: float) -> None:
        """Wait a little.

        Raises:
            Asked: Somebody asked to stop.
        """
        if self._asked.wait(seconds):
            raise Asked

    def tend(self) -> list[Service]:
        """See who died, and start those again whose time has come; returns the latter.

        Raises:
            Asked: The home was removed, so that nobody could find and stop this any more.
        """
        if not self._desk.is_there:
            logger.error("%s was removed, so everything is stopped", self._desk.folder)
            raise Asked
        again = []
        for kept in self._kept:
            if kept.status == "running" and kept.started.code is not None:
                self._note_death(kept)
            elif kept.status == "waiting to start again" and time.monotonic() >= kept.due:
                kept.started = Started(kept.service, kept.started.log)
                kept.status, kept.since, kept.born = "running", now(), time.monotonic()
                kept.starts += 1
                again.append(kept.service)
        is_old = self._is_unwritten or again
        if is_old or any(len(one.processes) < _WRITTEN for one in self._state.services):
            self._write()  # a supervisor has just started what it looks after
        return again

    def stop(self, chosen: Callable[[Service], bool]) -> None:
        """Stop services together; each has its own time, and a second Ctrl-C ends it.

        Nothing that they started stays, even if their supervisor had been killed.
        """
        leaving = [one for one in self._kept if chosen(one.service)]
        if not leaving:
            return
        grace = max(one.service.grace for one in leaving) + EXTRA_SECONDS
        marks = [one.started.supervisor for one in leaving]
        for mark in end(marks, grace=grace, insists=lambda: self._insists):
            logger.warning("process %d did not stop and was killed", mark.pid)
        self._kept = [one for one in self._kept if one not in leaving]
        self._end_strays(grace)
        self._write()

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """However the block ends, nothing of what was started stays, nor what was written."""
        try:
            yield
        finally:
            self.stop(lambda _: True)
            self._desk.clear()

    def _note_death(self, kept: _Kept) -> None:
        ran = time.monotonic() - kept.born
        kept.deaths = 1 if ran > FORGIVEN_SECONDS else kept.deaths + 1
        how = f"{kept.service.title} ended with code {kept.started.code} after {ran:.0f} s"
        self._end_strays(kept.service.grace)
        if kept.deaths > len(PAUSES):
            kept.status = "given up"
            logger.error(
                "%s; it died %d times and is given up: see %s, then `cogvx down` and `%s`",
                *(how, kept.deaths, kept.started.log, self._desk.command),
            )
        else:
            pause = PAUSES[kept.deaths - 1]
            kept.status, kept.due = "waiting to start again", time.monotonic() + pause
            logger.warning(
                "%s; it is started again in %.0f s (%d of %d times; log: %s)",
                *(how, pause, kept.deaths, len(PAUSES), kept.started.log),
            )
        self._write()

    def _require_all_alive(self) -> None:
        for kept in self._kept:
            if kept.started.code is not None and kept.service.must_stay:
                raise _failed(kept, f"ended with code {kept.started.code}")

    def _end_strays(self, grace: float) -> None:
        """End what lost its supervisor: it came to this process."""
        known = [*self._others, *(one.started.supervisor.pid for one in self._kept)]
        spared = {below for pid in known for below in (pid, *descendants(pid))}
        strays = [pid for pid in descendants(os.getpid()) if pid not in spared]
        marks = [mark for pid in strays if (mark := Mark.of(pid))]
        end(marks, grace=grace, insists=lambda: self._insists)
        for pid in strays:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def _write(self) -> None:
        states = tuple(_state(one) for one in self._kept)
        self._state = self._state.model_copy(update={"services": states})
        try:
            self._desk.write(self._state)
        except OSError as error:  # a full disk, say, which is no reason to end what runs
            if not self._is_unwritten:
                logger.warning(
                    "%s cannot be written (%s), so `cogvx status` tells what was before; "
                    "make room there",
                    *(self._desk.folder, error.strerror),
                )
            self._is_unwritten = True
        else:
            self._is_unwritten = False

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        # closing a terminal says SIGHUP more than once, so only a person's second word counts
        self._insists = self._asked.is_set() and number == signal.SIGINT
        self._asked.set()


def _failed(kept: _Kept, how: str) -> ConfigError:
    words = kept.started.last_words().splitlines()[-8:]
    lines = [f"{kept.service.title} {how}; its log, {kept.started.log}, ends with", *words]
    return ConfigError("\n  | ".join(lines))


def _state(kept: _Kept) -> ServiceState:
    return ServiceState(
        name=kept.service.name,
        title=kept.service.title,
        status=kept.status,
        since=kept.since,
        starts=kept.starts,
        processes=kept.started.processes(),
        log=kept.started.log,
        health=kept.service.health,
        pool=kept.service.pool,
        gpus=kept.service.gpus,
        grace=kept.service.grace,
    )
