"""Children as runs of a deployment on its work pool: started, waited for, and told apart.

How many run at once is the pool's business. Prefect raises for no child that failed; what became of
each is said here, in its own words.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from prefect.client.schemas.objects import FlowRun
from pydantic import BaseModel

from cogvx.errors import CogvxError, TransientError, error_from_name
from tasks.clients.pool import Pool, page_of_run
from tasks.pools.children import Child, Ended, Seen
from tasks.pools.lookout import Bounds, GivenUp, Lookout

logger = logging.getLogger(__name__)

ReportT = TypeVar("ReportT")

# Prefect's message of a run that raised: a prefix, and the last line of the traceback.
_RAISED = re.compile(r"(?:.*? exception: )?(?:\w+\.)*(?P<kind>\w+): (?P<text>.*)", re.DOTALL)


@dataclass(frozen=True)
class Elsewhere(Generic[ReportT]):
    """Where children run, if not here.

    `report` reads what the flow run of this id left behind when it completed.
    """

    deployment: str
    report: Callable[[str], ReportT]
    bounds: Bounds = Bounds()  # noqa: RUF009 - frozen


def run_on_pool(
    pool: Pool,
    children: Sequence[Child],
    *,
    elsewhere: Elsewhere[ReportT],
    on_ended: Callable[[Ended[ReportT]], None] = lambda _ended: None,
    on_seen: Callable[[Sequence[Seen]], None] = lambda _seen: None,
) -> tuple[Ended[ReportT], ...]:
    """Run each child as a deployment run, and wait until every one has ended.

    A child whose work another parent has just started shares that run. If this run is cancelled or
    fails, so are the children that it started.

    Args:
        pool: Where they run.
        children: In the order in which they are started.
        elsewhere: How a report is found, and how long what may take.
        on_ended: Called with each child as it ends.
        on_seen: Called with all children after each look at them.

    Returns:
        How each child ended, in the order of `children`; nothing is raised for a failure.

    Raises:
        ConfigError: The deployment does not take such children.
        TransientError: Prefect's server did not answer for as long as the patience lasts.
    """
    lookout = Lookout(pool, elsewhere.bounds)
    runs: list[UUID] = []
    ended: dict[UUID, Ended[ReportT]] = {}
    try:
        runs += (_start(pool, child) for child in children)
        child_of = dict(zip(runs, children, strict=True))
        logger.info("%d runs of %s on work pool %s", len(child_of), pool.deployment, pool.name)
        while len(ended) < len(child_of):
            for run, end in lookout.ends([run for run in child_of if run not in ended]).items():
                ended[run] = _ended(child_of[run], run, end, elsewhere)
                on_ended(ended[run])
            on_seen(
                [
                    _seen(child, run, lookout.seen.get(run), ended.get(run))
                    for run, child in child_of.items()
                ]
            )
    except BaseException:  # a signal, too, must not leave them running
        _cancel(pool, [run for run in runs if run not in ended])
        raise
    return tuple(ended[run] for run in runs)


def error_in(message: str) -> CogvxError | None:
    """Our own error that a flow run ended with, by Prefect's message; None where it is no such."""
    if (raised := _RAISED.match(message)) is None:
        return None
    error = error_from_name(raised["kind"], raised["text"])
    return error if type(error).__name__ == raised["kind"] else None


def _start(pool: Pool, child: Child) -> UUID:
    plain = {
        name: value.model_dump(mode="json", exclude_none=True)
        if isinstance(value, BaseModel)
        else value
        for name, value in child.parameters.items()
    }
    return pool.start(child.name, child.key, tag=child.tag, parameters=plain)


def _ended(
    child: Child, run: UUID, end: FlowRun | GivenUp, elsewhere: Elsewhere[ReportT]
) -> Ended[ReportT]:
    page = page_of_run(run)
    if isinstance(end, GivenUp):
        return Ended(child, 0.0, error=TransientError(f"its run {end.why}"), page=page)
    seconds = end.total_run_time.total_seconds()
    state = end.state
    if state is None or not state.is_completed():
        return Ended(child, seconds, error=_error(end), page=page)
    try:
        return Ended(child, seconds, report=elsewhere.report(str(end.id)), page=page)
    except CogvxError as error:
        return Ended(child, seconds, error=error, page=page)


def _seen(child: Child, run: UUID, found: FlowRun | None, ended: Ended[ReportT] | None) -> Seen:
    state = found.state if found else None
    seconds = 0.0 if found is None else found.estimated_run_time.total_seconds()
    told = "" if ended is None or ended.error is None else str(ended.error)
    name = (state.name if state else None) or "Scheduled"
    if told and (state is None or not state.is_final()):
        name = "Given up"
    return Seen(child.name, name, seconds, page_of_run(run), told)


def _error(run: FlowRun) -> CogvxError:
    """Our own error, if the run ended with one; else what Prefect says of its end."""
    state = run.state
    message = (state.message if state else None) or ""
    if state is not None and state.is_failed():
        raised = error_in(message)
        if raised is not None:
            return raised
        return CogvxError(f"its run {run.name} failed: {message or 'it left no message'}")
    if state is not None and state.is_crashed():
        why = message or "it left no message"
        return TransientError(f"the process of its run {run.name} ended early: {why}")
    # By hand, or by an automation; what it had made is kept.
    why = f": {message}" if message else ""
    return CogvxError(f"its run {run.name} was cancelled in Prefect{why}; run again to go on")


def _cancel(pool: Pool, runs: Sequence[UUID]) -> None:
    """Cancel what is under way; where that fails, Prefect does it later by itself."""
    try:
        pool.cancel(list(pool.look(runs).values()))
    except TransientError as error:
        logger.warning("children may go on for a while: %s", error)
