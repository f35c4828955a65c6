"""Looking after runs on a work pool: which have ended, and which must be given up and why.

Prefect ends no run that nobody works on: its worker was killed, or it hangs. Each is bounded here,
by this process's own clock, as those of other machines may differ.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import CancelledRun

from cogvx.errors import TransientError
from tasks.clients.pool import Pool
from tasks.settings import worker_pid

logger = logging.getLogger(__name__)

# The first looks are quick, for small work; a run of a day is looked at every few seconds.
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0
_PAUSE_GROWTH = 1.3
# A worker that was just started needs a moment.
_WARN_AFTER_SECONDS = 10.0
_WARN_EVERY_SECONDS = 600.0
_HOUR = 3600.0
# A server that takes so long for a look is behind with signs of life, too.
_SLOW_SECONDS = 10.0
# In which a worker hears that a run of its was cancelled.
_SIGNAL_SECONDS = 40.0


@dataclass(frozen=True)
class Bounds:
    """How long what may take, in seconds.

    Attributes:
        patience: Nobody is there to run anything; or a worker that took a run does not begin it.
        lost: A run gives no sign of life, or was told to stop and does not.
        stage: A run works; then it is cancelled.
    """

    patience: float = 3600.0
    lost: float = 300.0
    stage: float = 168 * _HOUR


@dataclass
class _Sign:
    """The last that was heard of a run: its state, its newest sign of life, and when we knew."""

    state: str
    heard: str | None = None
    since: float = field(default_factory=time.monotonic)

    @property
    def silence(self) -> float:
        return time.monotonic() - self.since


@dataclass(frozen=True)
class GivenUp:
    """A run that nobody waits for any more, and why."""

    why: str


class Lookout:
    """Looks at runs, ever less often, and gives up those of which nothing can come."""

    def __init__(self, pool: Pool, bounds: Bounds) -> None:
        """`pool` is where they run."""
        self._pool = pool
        self._bounds = bounds
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._alive = time.monotonic()  # when all was last well
        self._warned = float("-inf")
        self._counts = (0, 0)
        self._signs: dict[UUID, _Sign] = {}
        self._overdue: set[UUID] = set()
        self._cancelled: float | None = None
        self.seen: dict[UUID, FlowRun] = {}

    def ends(self, runs: Sequence[UUID]) -> dict[UUID, FlowRun | GivenUp]:
        """Wait a moment; then which of these runs have ended, or why they are given up.

        `seen` has them all as they are now.

        Raises:
            CancelledRun: The run that waits for them was itself cancelled.
            TransientError: The server did not answer for as long as the patience lasts.
        """
        time.sleep(self._pause_seconds)
        began = time.monotonic()
        self._pause_seconds = min(_LONGEST_PAUSE_SECONDS, self._pause_seconds * _PAUSE_GROWTH)
        parent = [] if self._pool.parent is None else [self._pool.parent]
        try:
            seen = self._pool.look([*runs, *parent])
            children = [seen[run] for run in runs if run in seen]
            running = self._count(children)
            trouble = self._pool.trouble(running=running > 0)
            if self._must_stop([seen[run] for run in parent if run in seen], children):
                return {}
            self.seen |= {run.id: run for run in children}
            if time.monotonic() - began > _SLOW_SECONDS:
                self._count_anew()
            ends: dict[UUID, FlowRun | GivenUp] = {
                run: GivenUp("was deleted") for run in runs if run not in seen
            }
            ends |= {
                run.id: self._end(run) for run in children if run.state and run.state.is_final()
            }
            left = [run for run in children if run.id not in ends]
            ends |= {run.id: given_up for run in left if (given_up := self._look_after(run))}
            if self._is_too_much(trouble):
                patience = self._bounds.patience
                why = f"was given up after {patience:.0f} s in which {trouble}"
                ends |= {run.id: self._give_up(run, why) for run in left if run.id not in ends}
        except TransientError as error:
            self._count_anew()
            if self._is_too_much(str(error)):
                raise
            return {}
        return ends

    def _count_anew(self) -> None:
        """Forget how long runs have been silent: the server stood still, and may not have heard."""
        for run, sign in self._signs.items():
            self._signs[run] = _Sign(sign.state, sign.heard)

    def _must_stop(self, parents: Sequence[FlowRun], children: Sequence[FlowRun]) -> bool:
        """Whether the run that waits was cancelled; its children are, and no end counts any more.

        Raises:
            CancelledRun: It was, and no worker is there to end it with a signal.
        """
        if not any(_is_cancelled(parent) for parent in parents):
            return False
        if self._cancelled is None:
            self._cancelled = time.monotonic()
            self._pool.cancel([run for run in children if run.state and not run.state.is_final()])
        waited = time.monotonic() - self._cancelled
        # An exception would make it Failed; the signal that is on its way makes it Cancelled.
        if worker_pid() is None or waited > _SIGNAL_SECONDS:
            raise CancelledRun("cancelled while its children ran; they are cancelled, too")
        return True

    def _count(self, children: Sequence[FlowRun]) -> int:
        """How many are running; says so when that changes."""
        states = [run.state for run in children if run.state is not None]
        running = sum(state.is_running() for state in states)
        waiting = sum(state.is_scheduled() or state.is_pending() for state in states)
        if self._counts != (running, waiting):
            self._counts = (running, waiting)
            logger.info("work pool %s: %d running, %d waiting", self._pool.name, running, waiting)
        return running

    def _end(self, run: FlowRun) -> FlowRun | GivenUp:
        """A run that has ended; one that was cancelled here for its hours ended for that."""
        if run.id in self._overdue and run.state is not None and not run.state.is_completed():
            return GivenUp(self._too_long())
        return run

    def _too_long(self) -> str:
        hours = self._bounds.stage / _HOUR
        return f"was cancelled after {hours:.3g} h (COGVX_STAGE_HOURS); what it has made is kept"

    def _look_after(self, run: FlowRun) -> GivenUp | None:
        """Give up a run that has been silent for too long; cancel one that works for too long."""
        state = run.state
        if state is None:
            return None
        sign = self._sign_of(run.id, state.name or "")
        if state.is_pending() and sign.silence > self._bounds.patience:
            waited = f"{sign.silence:.0f} s after a worker had taken it it had not begun"
            return self._give_up(run, f"was given up: {waited}")
        if state.is_cancelling() and sign.silence > self._bounds.lost:
            waited = f"{sign.silence:.0f} s after it was told to stop nobody had stopped it"
            return self._give_up(run, f"was given up: {waited}; its worker may be lost")
        if state.is_running():
            self._limit(run)
            return self._require_sign(run, sign)
        return None

    def _sign_of(self, run: UUID, state: str) -> _Sign:
        found = self._signs.get(run)
        if found is None or found.state != state:
            found = self._signs[run] = _Sign(state)
        return found

    def _limit(self, run: FlowRun) -> None:
        """Cancel a run whose time is over, once."""
        too_long = run.estimated_run_time.total_seconds() > self._bounds.stage
        if too_long and run.id not in self._overdue:
            self._overdue.add(run.id)
            logger.error("%s %s", run.name, self._too_long())
            self._pool.cancel([run])

    def _require_sign(self, run: FlowRun, sign: _Sign) -> GivenUp | None:
        """Ask for a sign of life, if there was none for a while; none at all tells nothing.

        Where a server keeps no events, or a worker sends none, runs are not given up for that.
        """
        if sign.silence < self._bounds.lost / 2:
            return None
        asked = time.monotonic()
        heard = self._pool.last_heartbeat(run.id)
        if time.monotonic() - asked > _SLOW_SECONDS:
            self._count_anew()
            return None
        if heard is None or heard != sign.heard:
            # Heard of only now, however old it is: from here on it counts.
            self._signs[run.id] = _Sign(sign.state, heard)
            return None
        if sign.silence < self._bounds.lost:
            return None
        why = f"was lost: no sign of life for {sign.silence:.0f} s; its worker may have ended"
        self._pool.declare_lost(run.id, why)
        return GivenUp(why)

    def _give_up(self, run: FlowRun, why: str) -> GivenUp:
        self._pool.give_up(run.id, why)
        return GivenUp(why)

    def _is_too_much(self, trouble: str | None) -> bool:
        """Whether nothing can have happened for longer than the patience lasts; warns before."""
        now = time.monotonic()
        if trouble is None:
            self._alive = now
            return False
        silence = now - self._alive
        if silence > _WARN_AFTER_SECONDS and now - self._warned > _WARN_EVERY_SECONDS:
            self._warned = now
            logger.warning("%s", trouble)
        return silence > self._bounds.patience


def _is_cancelled(run: FlowRun) -> bool:
    return run.state is not None and (run.state.is_cancelling() or run.state.is_cancelled())
