"""A Prefect deployment and its work pool: start runs there, look at them, cancel them.

Prefect schedules; nothing here knows what the runs do. Its requests fail with our errors.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx  # what Prefect's client raises
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, WorkerStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.events.filters import (
    EventFilter,
    EventNameFilter,
    EventOccurredFilter,
    EventResourceFilter,
)
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Crashed
from prefect.utilities.urls import url_for

from cogvx.digest import digest
from cogvx.errors import ConfigError, TransientError
from tasks.clients.secrets import cause_without_secrets, without_secrets

logger = logging.getLogger(__name__)

IN_PASSWORDS = "with %2F for /, %3F for ?, %23 for # and %40 for @ in a password"
NO_ADDRESS = (
    "PREFECT_API_URL is no address of a server; write it like http://127.0.0.1:4200/api, "
    f"{IN_PASSWORDS}"
)
"""What is said of it; the address is not repeated."""

_ENDED = FlowRunFilterState(type=FlowRunFilterStateType(any_=sorted(TERMINAL_STATES)))
# As many flow runs as the server lists at once.
_PAGE = 200
# Workers say every 30 s that they are there; a server without its services never calls one offline.
_WORKER_SILENCE = timedelta(seconds=120)


class Pool:
    """The work pool of one deployment, as seen from the flow run that is under way, if any."""

    def __init__(self, client: SyncPrefectClient, deployment: str) -> None:
        """`deployment` is named as Prefect does, `flow/deployment`.

        Raises:
            ConfigError: There is no such deployment, or it has no work pool.
            TransientError: The server did not answer.
        """
        self.deployment = deployment
        self._client = client
        context = FlowRunContext.get()
        run = context.flow_run if context else None
        self.parent: UUID | None = run.id if run else None
        with asking("find the deployment"):
            try:
                found = client.read_deployment_by_name(deployment)
            except (ObjectNotFound, ValueError) as error:
                raise ConfigError(
                    f'no deployment "{deployment}" at {address_of(client)}; make it there with '
                    "`cogvx deploy --apply --catalog YOUR.toml`, or name another; PREFECT_API_URL "
                    "says where"
                ) from cause_without_secrets(error)
        self._id = found.id
        if not found.work_pool_name:
            raise ConfigError(f'deployment "{deployment}" has no work pool; deploy it to one')
        self.name: str = found.work_pool_name

    def start(
        self,
        name: str,
        key: str,
        *,
        tag: str,
        parameters: Mapping[str, Any],
        is_child: bool = True,
    ) -> UUID:
        """Start a run, unless one with this key is under way: then it is that one.

        A run that has ended, well or badly, is not given again, as whoever asks for its work knows
        that some is left. A run that is no child can be suspended; nobody waits for it.

        Raises:
            ConfigError: The deployment does not take these parameters.
            TransientError: The server did not answer.
        """
        with asking(f"start {name}"):
            try:
                run = run_deployment(
                    self._id,
                    parameters=dict(parameters),
                    flow_run_name=name,
                    timeout=0,
                    tags=[tag],
                    as_subflow=is_child,
                    # Two parents see the same last run, so they make the same key. The server
                    # knows it by flow alone, and another deployment may have another store.
                    idempotency_key=digest([str(self._id), key, self._last_ended(tag)]),
                )
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in {409, 422}:
                    raise
                raise ConfigError(
                    f'deployment "{self.deployment}" does not take {name}: {_detail(error)}; '
                    "apply this version's deployments again: "
                    "`cogvx deploy --apply --catalog YOUR.toml`"
                ) from cause_without_secrets(error)
        assert isinstance(run, FlowRun)  # and no coroutine, as there is no event loop here
        return run.id

    def look(self, runs: Sequence[UUID]) -> dict[UUID, FlowRun]:
        """These runs as they are now; those that were deleted are missing.

        Raises:
            TransientError: The server did not answer.
        """
        found: dict[UUID, FlowRun] = {}
        with asking("look at runs"):
            for first in range(0, len(runs), _PAGE):
                some = FlowRunFilterId(any_=list(runs[first : first + _PAGE]))
                listed = self._client.read_flow_runs(flow_run_filter=FlowRunFilter(id=some))
                found |= {run.id: run for run in listed}
        return found

    def trouble(self, *, running: bool) -> str | None:
        """Why nothing will happen in this pool until a person acts, or None.

        Args:
            running: Whether runs are under way: they go on in a pool that is paused.

        Raises:
            TransientError: The server did not answer.
        """
        with asking("look for workers"):
            workers = self._client.read_workers_for_work_pool(self.name)
            paused = not running and self._client.read_work_pool(self.name).is_paused
        since = datetime.now(UTC) - _WORKER_SILENCE
        if not any(
            worker.status is WorkerStatus.ONLINE
            and worker.last_heartbeat_time is not None
            and worker.last_heartbeat_time > since
            for worker in workers
        ):
            # a run of the pool cpu that comes back may find its own place still taken
            limit = "" if self.name == "cpu" else " --limit 1"
            return (
                f'no worker polls work pool "{self.name}"; start one, as `cogvx up` or the systemd '
                "unit does: `python -m tasks.clients.tend -- "
                f'prefect worker start --pool "{self.name}"{limit}`'
            )
        if paused:
            return (
                f'work pool "{self.name}" is paused; resume it: '
                f'`prefect work-pool resume "{self.name}"`'
            )
        return None

    def cancel(self, runs: Sequence[FlowRun]) -> None:
        """Ask that runs stop, except those of another parent that lives: they are also its own.

        Raises:
            TransientError: The server did not answer.
        """
        with asking("cancel runs"):
            for run in runs:
                if self._is_own(run):
                    self._client.set_flow_run_state(run.id, Cancelling())

    def give_up(self, run: UUID, why: str) -> None:
        """Declare a run cancelled that nobody is there to stop.

        Raises:
            TransientError: The server did not answer.
        """
        with asking("give up a run"):
            self._client.set_flow_run_state(run, Cancelled(message=why), force=True)

    def declare_lost(self, run: UUID, why: str) -> None:
        """Declare a run crashed of which nobody hears any more.

        Raises:
            TransientError: The server did not answer.
        """
        with asking("declare a run lost"):
            self._client.set_flow_run_state(run, Crashed(message=why), force=True)

    def last_heartbeat(self, run: UUID) -> str | None:
        """Names the newest sign of life of a run, to be compared; None where none is known.

        Raises:
            TransientError: The server did not answer.
        """
        which = EventFilter(
            # whoever sends them may have another clock
            occurred=EventOccurredFilter(until=datetime.now(UTC) + timedelta(days=1)),
            event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
            resource=EventResourceFilter(id=[f"prefect.flow-run.{run}"]),
        )
        with asking("look for signs of life"):
            page = self._client.read_events(which, limit=1)
        return next((str(event.id) for event in page.events), None)

    def _is_own(self, run: FlowRun) -> bool:
        """Whether this run started it, or whoever did has ended and can stop it no more."""
        if run.parent_task_run_id is None:
            return self.parent is None
        parent = self._client.read_task_run(run.parent_task_run_id).flow_run_id
        if parent is None or parent == self.parent:
            return True
        above = self.look([parent]).get(parent)
        return above is None or (above.state is not None and above.state.is_final())

    def _last_ended(self, tag: str) -> str:
        runs = self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                deployment_id=FlowRunFilterDeploymentId(any_=[self._id]),
                tags=FlowRunFilterTags(all_=[tag]),
                state=_ENDED,
            ),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=1,
        )
        return str(runs[0].id) if runs else ""


@contextmanager
def open_pool(deployment: str) -> Iterator[Pool]:
    """The pool of a deployment, while the block lasts; raises as `Pool` does."""
    with ExitStack() as stack:
        with asking("be reached"):
            client = stack.enter_context(get_client(sync_client=True))
        yield Pool(client, deployment)


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Turn a server that does not answer into the error that is tried again.

    Raises:
        ConfigError: PREFECT_API_URL is no address.
        TransientError: The server did not answer.
    """
    try:
        yield
    except httpx.InvalidURL:  # which shows the beginning of a password
        raise ConfigError(NO_ADDRESS) from None
    except httpx.HTTPError as error:
        raise TransientError(
            f"Prefect's server could not {what}: {without_secrets(repr(error))}"
        ) from cause_without_secrets(error)


def address_of(client: SyncPrefectClient) -> str:
    """Where the server is, as it may be shown."""
    return without_secrets(str(client.api_url))


def page_of_run(run: UUID) -> str:
    """The address at which a person sees a run; empty where there are no pages."""
    return without_secrets(url_for("flow-run", obj_id=run) or "")


def _detail(error: httpx.HTTPStatusError) -> str:
    try:
        return str(error.response.json()["detail"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return error.response.text[:500]
