"""What becomes of flow runs, told as it happens; and runs that nobody executes any more."""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Crashed

from cogvx.terminal import printable
from deployments.up.services import is_of_up
from deployments.up.state import now
from tasks.clients.pool import asking

logger = logging.getLogger(__name__)

_PAGE = 200  # as many flow runs as the server lists at once
_UNDER_WAY = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED)
_EXECUTED = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
_REASON_CHARACTERS = 300
# Workers say every 30 s that they are there.
WORKER_SILENCE = timedelta(seconds=120)


@contextmanager
def talking_to(url: str, *, patiently: bool = True) -> Iterator[SyncPrefectClient]:
    """A client of the server with these pages; one without patience asks only once."""
    settings = {PREFECT_API_URL: f"{url}/api"}
    if not patiently:
        settings[PREFECT_CLIENT_MAX_RETRIES] = "0"
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client


class Names:
    """What runs are called: by their deployment until they begin, as flows name their own runs."""

    def __init__(self) -> None:
        """Names are asked for once."""
        self._deployments: dict[UUID, str] = {}

    def of(self, client: SyncPrefectClient, run: FlowRun) -> str:
        """The name of a run.

        Raises:
            TransientError: The server did not answer.
        """
        if run.deployment_id is None or run.start_time is not None:
            return run.name
        if run.deployment_id not in self._deployments:
            self._deployments[run.deployment_id] = _deployment_name(client, run.deployment_id)
        return self._deployments[run.deployment_id] or run.name


class Told:
    """States that were told already, so that only changes are."""

    def __init__(self) -> None:
        """Nothing was told yet."""
        self._states: dict[UUID, tuple[str, str]] = {}
        self._names = Names()

    def news(self, client: SyncPrefectClient, runs: Sequence[FlowRun]) -> list[tuple[FlowRun, str]]:
        """Runs whose state is another than before, and the words for it.

        Raises:
            TransientError: The server did not answer.
        """
        found = []
        for run in sorted(runs, key=_moment):
            now = (run.state_name or "", "" if run.state is None else run.state.message or "")
            if self._states.get(run.id) != now:
                found.append((run, words_for(run, self._names.of(client, run))))
                self._states[run.id] = now
        return found


def is_bad(run: FlowRun) -> bool:
    """Whether a run ended otherwise than well."""
    return run.state_type in {StateType.FAILED, StateType.CRASHED, StateType.CANCELLED}


def words_for(run: FlowRun, name: str) -> str:
    """A run and its state, with the reason where it did not end well."""
    reason = run.state.message if is_bad(run) and run.state and run.state.message else ""
    if len(reason) > _REASON_CHARACTERS:
        reason = reason[: _REASON_CHARACTERS - 3] + "..."
    text = f"{name}: {run.state_name}"
    return printable(f"{text}, {reason}" if reason else text)


def under_way(client: SyncPrefectClient, since: datetime | None = None) -> list[FlowRun]:
    """Runs that are under way, and with `since` also those that ended after it.

    Raises:
        TransientError: The server did not answer.
    """
    state = FlowRunFilter(state=_in(_UNDER_WAY))
    with asking("look at runs"):
        found = client.read_flow_runs(flow_run_filter=state, limit=_PAGE)
        if since is not None:
            ended = FlowRunFilter(end_time=FlowRunFilterEndTime(after_=since))
            found += client.read_flow_runs(flow_run_filter=ended, limit=_PAGE)
    return list({run.id: run for run in found}.values())


def family(client: SyncPrefectClient, root: UUID) -> list[FlowRun]:
    """A run and all runs below it, level by level.

    Raises:
        TransientError: The server did not answer.
    """
    with asking("look at runs"):
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[root]))
        )
        level = found
        while level:
            above = FlowRunFilterParentFlowRunId(any_=[run.id for run in level])
            level = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=above))
            found = [*found, *level]
    return found


def next_runs(client: SyncPrefectClient, count: int) -> list[FlowRun]:
    """The runs that schedules start next, one for each deployment.

    Raises:
        TransientError: The server did not answer.
    """
    with asking("look at schedules"):
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=_in((StateType.SCHEDULED,))),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=_PAGE,
        )
    first: dict[UUID | None, FlowRun] = {}
    for run in runs:
        first.setdefault(run.deployment_id, run)
    return list(first.values())[:count]


def polls(client: SyncPrefectClient, pool: str, worker: str, *, since: datetime) -> bool:
    """Whether a worker of this name looks for runs in the pool, and said so since then.

    Raises:
        TransientError: The server did not answer.
    """
    return worker in _heard(client, pool, since)


def settle(
    client: SyncPrefectClient, pools: Collection[str], why: str
) -> tuple[list[FlowRun], list[FlowRun]]:
    """Declare runs crashed that were on these pools' workers, when no worker is there any more.

    Left as they are they would count as running for ever, and keep their slots of every limit.
    Where a worker polls that is of no `up` of this machine, any run of the pool may be its own.
    One that the server will not end now is told, and stands in nobody's way.

    Returns:
        The runs that are now called crashed, and those that may be another worker's.

    Raises:
        TransientError: The server did not answer.
    """
    since = now() - WORKER_SILENCE
    with asking("look for work pools"):
        found = client.read_work_pools(work_pool_filter=_of(pools))
    known = {pool.name for pool in found}  # people may have deleted one
    shared = {
        pool
        for pool in known
        if not all(is_of_up(worker, pool) for worker in _heard(client, pool, since))
    }
    stranded, left = (_executed(client, some) for some in (known - shared, shared))
    return [run for run in stranded if _crash(client, run, why)], left


def _crash(client: SyncPrefectClient, run: FlowRun, why: str) -> bool:
    """Whether the server calls it crashed now.

    Prefect fails to end a run whose deployment was removed: it gives back the slot of a limit that
    went with it. When the run's lease has expired, after five minutes, it does.
    """
    with asking("end a run"):
        try:
            client.set_flow_run_state(run.id, Crashed(message=why), force=True)
        except httpx.HTTPStatusError as error:
            logger.warning(
                "%s is executed by nobody, and cannot be called Crashed yet: Prefect's server says "
                "%d, as where its deployment was removed; the next `cogvx down` or `up` does it",
                *(run.name, error.response.status_code),
            )
            return False
    return True


def _heard(client: SyncPrefectClient, pool: str, since: datetime) -> set[str]:
    """The workers of a pool that look for runs, and said so since then.

    One that is stopped says so; one that was killed is known by the age of its last word alone.
    """
    with asking("look for workers"):
        known = client.read_workers_for_work_pool(pool)
    return {
        one.name
        for one in known
        if one.status is WorkerStatus.ONLINE
        and one.last_heartbeat_time is not None
        and one.last_heartbeat_time > since
    }


def _executed(client: SyncPrefectClient, pools: Collection[str]) -> list[FlowRun]:
    """Runs of these pools that count as being executed."""
    if not pools:
        return []
    with asking("look at runs"):
        return client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=_in(_EXECUTED)),
            work_pool_filter=_of(pools),
            limit=_PAGE,
        )


def _moment(run: FlowRun) -> datetime:
    """When a run came into its state."""
    return datetime.min.replace(tzinfo=UTC) if run.state is None else run.state.timestamp


def _deployment_name(client: SyncPrefectClient, number: UUID) -> str:
    """As people write it; empty for one that was removed."""
    with asking("name a deployment"):
        try:
            found = client.read_deployment(number)
            return f"{client.read_flow(found.flow_id).name}/{found.name}"
        except ObjectNotFound:
            return ""


def _of(pools: Collection[str]) -> WorkPoolFilter:
    return WorkPoolFilter(name=WorkPoolFilterName(any_=sorted(pools)))


def _in(types: Sequence[StateType]) -> FlowRunFilterState:
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types)))
