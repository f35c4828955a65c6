"""Children as runs of a deployment on its work pool: started, waited for, and told apart.

How many run at once is the pool's business. Prefect raises for no child that failed, and nothing
but a person starts a worker; so both are said here.
"""

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import CancelledRun
from pydantic import BaseModel

from cogvx.errors import CogvxError, TransientError, error_from_name
from tasks.children import Child, Ended
from tasks.clients.pool import Pool

logger = logging.getLogger(__name__)

ReportT = TypeVar("ReportT")

# The first looks are quick, for small work; a run of a day is looked at every few seconds.
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0
_PAUSE_GROWTH = 1.3
# A worker that was just started needs a moment.
_WARN_AFTER_SECONDS = 10.0
_WARN_EVERY_SECONDS = 600.0
# Prefect's message of a run that raised: a prefix, and the last line of the traceback.
_RAISED = re.compile(r"(?:.*? exception: )?(?:\w+\.)*(?P<kind>\w+): (?P<text>.*)", re.DOTALL)


@dataclass(frozen=True)
class Elsewhere(Generic[ReportT]):
    """Where children run, if not here.

    `report` reads what the flow run of this id left behind when it completed; `patience_seconds`
    is how long nobody may be there to run them.
    """

    deployment: str
    report: Callable[[str], ReportT]
    patience_seconds: float


def run_on_pool(
    pool: Pool,
    children: Sequence[Child],
    *,
    elsewhere: Elsewhere[ReportT],
    on_ended: Callable[[Ended[ReportT]], None],
) -> tuple[Ended[ReportT], ...]:
    """Run each child as a deployment run, and wait until every one has ended.

    A child whose work another parent has just started shares that run. If this run is cancelled or
    fails, so are the children that it started.

    Returns:
        How each child ended, in the order of `children`; nothing is raised for a failure.

    Raises:
        ConfigError: The deployment does not take such children.
        TransientError: Prefect's server did not answer for as long as the patience lasts.
    """
    watch = _Watch(pool, elsewhere.patience_seconds)
    runs: list[UUID] = []
    ended: dict[UUID, Ended[ReportT]] = {}
    try:
        runs += (_start(pool, child) for child in children)
        child_of = dict(zip(runs, children, strict=True))
        logger.info("%d runs of %s on work pool %s", len(child_of), pool.deployment, pool.name)
        while len(ended) < len(child_of):
            for run, end in watch.ends([run for run in child_of if run not in ended]).items():
                ended[run] = _ended(child_of[run], end, elsewhere)
                on_ended(ended[run])
    except BaseException:  # a signal, too, must not leave them running
        _cancel(pool, [run for run in runs if run not in ended])
        raise
    return tuple(ended[run] for run in runs)


class _Watch:
    """Looks at runs, ever less often, and knows for how long nobody has been there to run them."""

    def __init__(self, pool: Pool, patience_seconds: float) -> None:
        self._pool = pool
        self._patience_seconds = patience_seconds
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._alive = time.monotonic()  # when all was last well
        self._warned = float("-inf")
        self._counts = (0, 0)

    def ends(self, runs: Sequence[UUID]) -> dict[UUID, FlowRun | str]:
        """Wait a moment; then which of these runs have ended, or why they are given up."""
        time.sleep(self._pause_seconds)
        self._pause_seconds = min(_LONGEST_PAUSE_SECONDS, self._pause_seconds * _PAUSE_GROWTH)
        parent = [] if self._pool.parent is None else [self._pool.parent]
        try:
            seen = self._pool.look([*runs, *parent])
            children = [seen[run] for run in runs if run in seen]
            running = self._count(children)
            trouble = self._pool.trouble(running=running > 0)
        except TransientError as error:
            if self._is_too_much(str(error)):
                raise
            return {}
        if any(_is_cancelled(seen[run]) for run in parent if run in seen):
            raise CancelledRun("cancelled while its shards ran; they are cancelled, too")
        ends: dict[UUID, FlowRun | str] = {run: "was deleted" for run in runs if run not in seen}
        ends |= {run.id: run for run in children if run.state and run.state.is_final()}
        if self._is_too_much(trouble):
            why = f"was given up after {self._patience_seconds:.0f} s in which {trouble}"
            for run in set(runs) - set(ends):
                self._pool.give_up(run, why)
                ends[run] = why
        return ends

    def _count(self, children: Sequence[FlowRun]) -> int:
        """How many are running; says so when that changes."""
        states = [run.state for run in children if run.state is not None]
        running = sum(state.is_running() for state in states)
        waiting = sum(state.is_scheduled() or state.is_pending() for state in states)
        if self._counts != (running, waiting):
            self._counts = (running, waiting)
            logger.info("work pool %s: %d running, %d waiting", self._pool.name, running, waiting)
        return running

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
        return silence > self._patience_seconds


def _start(pool: Pool, child: Child) -> UUID:
    plain = {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, value in child.parameters.items()
    }
    return pool.start(child.name, child.key, tag=child.tag, parameters=plain)


def _ended(child: Child, end: FlowRun | str, elsewhere: Elsewhere[ReportT]) -> Ended[ReportT]:
    if isinstance(end, str):
        return Ended(child, 0.0, error=TransientError(f"its run {end}"))
    seconds = end.total_run_time.total_seconds()
    state = end.state
    if state is None or not state.is_completed():
        return Ended(child, seconds, error=_error(end))
    try:
        return Ended(child, seconds, report=elsewhere.report(str(end.id)))
    except CogvxError as error:
        return Ended(child, seconds, error=error)


def _error(run: FlowRun) -> CogvxError:
    """Our own error, if the run ended with one; else what Prefect says of its end."""
    state = run.state
    message = (state.message if state else None) or "it left no message"
    if state is not None and state.is_failed():
        if raised := _RAISED.match(message):
            error = error_from_name(raised["kind"], raised["text"])
            if type(error).__name__ == raised["kind"]:
                return error
        return CogvxError(f"its run {run.name} failed: {message}")
    if state is not None and state.is_crashed():
        return TransientError(f"the process of its run {run.name} ended early: {message}")
    return CogvxError(f"its run {run.name} was cancelled: {message}")


def _is_cancelled(run: FlowRun) -> bool:
    return run.state is not None and (run.state.is_cancelling() or run.state.is_cancelled())


def _cancel(pool: Pool, runs: Sequence[UUID]) -> None:
    """Cancel what is under way; where that fails, Prefect does it later by itself."""
    try:
        pool.cancel(list(pool.look(runs).values()))
    except TransientError as error:
        logger.warning("children may go on for a while: %s", error)
