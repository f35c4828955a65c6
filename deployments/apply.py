"""Bring a Prefect server to what a catalog says; done twice, the second time does nothing."""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.events.schemas.automations import AutomationCore
from prefect.utilities.callables import parameter_schema

from cogvx.errors import ConfigError
from deployments.catalog_sections import DEFAULT_QUEUE
from deployments.documents import MADE_HERE, PULL_STEPS, SLUG, VERSION, schedule_of
from deployments.plan import Change, compare, is_change
from deployments.reactions import AutomationRow
from deployments.rows import DeploymentRow, Desired, LimitRow, PoolRow, flow_of
from deployments.server import Found, Seen, asking_for, read_server


def apply_catalog(
    client: SyncPrefectClient, desired: Desired, *, may_remove: bool = True, partly: bool = False
) -> tuple[Change, ...]:
    """Do what `deployments.plan.changes` says; returns what was done and what is reported.

    Args:
        client: Of the server.
        desired: What is to be there.
        may_remove: False where nobody chose the catalog: it may be another's server.
        partly: What the server cannot take is held back and reported, and does not stop the rest.

    Raises:
        ConfigError: The server cannot become this, or would lose something that may not be
            removed; nothing was changed.
        TransientError: The server did not answer; done again, it goes on.
    """
    found = read_server(client, desired)
    plan = compare(found, desired, partly=partly)
    if not may_remove:
        _require_no_loss(plan)
    maker = _Maker(client, desired, found)
    for change in filter(is_change, plan):
        with asking_for(f"{change.kind} {change.name}"):
            maker.do(change)
    return plan


def _require_no_loss(plan: Iterable[Change]) -> None:
    """Refuse to bring the demo's catalog to a server that has another."""
    lost = [f"{change.kind} {change.name}" for change in plan if change.sign == "-"]
    if lost:
        raise ConfigError(
            f"the demo's catalog would remove {len(lost)} of this server's rows, first {lost[0]}, "
            "so nothing was changed; name the catalog: `cogvx deploy --apply --catalog YOUR.toml` "
            "(`--dry-run` shows all), or `cogvx up --catalog YOUR.toml`"
        )


class _Maker:
    """Makes, changes and removes single things, as their rows say."""

    def __init__(self, client: SyncPrefectClient, desired: Desired, found: Found) -> None:
        self._client = client
        self._found = found
        self._rows: dict[tuple[str, str], Any] = {
            **{("pool", row.name): row for row in desired.pools},
            **{("limit", row.name): row for row in desired.limits},
            **{("deployment", row.full_name): row for row in desired.deployments},
            **{("automation", row.name): row for row in desired.automations},
        }
        self._seen: Mapping[str, Mapping[str, Seen]] = {
            "pool": found.pools,
            "limit": found.limits,
            "deployment": found.deployments,
            "automation": found.automations,
        }
        self._deployments = {name: seen.id for name, seen in found.deployments.items()}

    def do(self, change: Change) -> None:
        """Carry out one change."""
        seen = self._seen[change.kind].get(change.name)
        if change.sign == "-":
            assert seen is not None  # only what was found can be surplus
            is_wanted = (change.kind, change.name) in self._rows
            for number in seen.twins if is_wanted else (seen.id, *seen.twins):
                self._remove(change, number)
            return
        row = self._rows[change.kind, change.name]
        match row:
            case PoolRow():
                self._pool(row, seen)
            case LimitRow():
                self._limit(row, seen)
            case DeploymentRow():
                self._deployments[row.full_name] = self._deployment(row, seen)
            case AutomationRow():
                self._automation(row, seen)

    def _remove(self, change: Change, number: UUID) -> None:
        if change.kind == "automation":
            self._client.delete_automation(number)
        elif change.kind == "deployment":
            self._client.delete_deployment(number)
        elif change.kind == "limit":
            # By id: the client puts a name into the address as it is.
            self._client.delete_global_concurrency_limit_by_name(str(number))

    def _pool(self, row: PoolRow, seen: Seen | None) -> None:
        plain: dict[str, Any] = {
            "description": MADE_HERE,
            "base_job_template": row.template,
            "concurrency_limit": row.concurrency,
        }
        if seen is None:
            self._client.create_work_pool(WorkPoolCreate(name=row.name, type=row.type, **plain))
        else:
            self._client.update_work_pool(row.name, WorkPoolUpdate(**plain))
        self._queues(row)

    def _queues(self, row: PoolRow) -> None:
        there = {q.name: q for q in self._client.read_work_queues(work_pool_name=row.name)}
        queues = f"/work_pools/{row.name}/queues"
        # In rising order: a priority that is taken pushes the others down, never those above.
        for name, (priority, most) in sorted(row.queues.items(), key=lambda item: item[1][0]):
            plain = {"priority": priority, "concurrency_limit": most, "description": MADE_HERE}
            if name in there:
                self._send("PATCH", f"{queues}/{name}", plain)
            else:
                self._send("POST", queues, {"name": name, **plain})
        for name, queue in there.items():
            if name in row.queues or queue.description != MADE_HERE:
                continue
            path = f"{queues}/{quote(name, safe='')}"  # whoever made it, of whatever name
            if name == DEFAULT_QUEUE:  # cannot be removed; what it is from now on is not ours
                self._send("PATCH", path, {"description": "", "concurrency_limit": None})
            else:
                self._send("DELETE", path, None)

    def _send(self, method: str, path: str, document: Mapping[str, Any] | None) -> None:
        """A request for which Prefect's client has no call."""
        self._client.request(method, path, json=document).raise_for_status()  # type: ignore[arg-type]

    def _limit(self, row: LimitRow, seen: Seen | None) -> None:
        if seen is None:
            limit = GlobalConcurrencyLimitCreate(name=row.name, limit=row.slots, active=True)
            self._client.create_global_concurrency_limit(limit)
        else:
            update = GlobalConcurrencyLimitUpdate(limit=row.slots, active=True)
            self._client.update_global_concurrency_limit(str(seen.id), update)

    def _deployment(self, row: DeploymentRow, seen: Seen | None) -> UUID:
        """Make it, or overwrite it: Prefect knows it by flow and name, and keeps its runs."""
        flow = flow_of(row.entrypoint)
        schedules = []
        if row.schedule is not None:
            active = seen is None or not seen.is_off
            schedule = schedule_of(row)
            schedules = [DeploymentScheduleCreate(schedule=schedule, active=active, slug=SLUG)]
        return self._client.create_deployment(
            flow_id=self._client.create_flow(flow),
            name=row.name,
            version=VERSION,
            schedules=schedules,
            concurrency_limit=row.limit,
            concurrency_options=_options(row),
            parameters=dict(row.parameters),
            description=flow.description,
            work_queue_name=row.queue,
            work_pool_name=row.pool,
            tags=list(row.tags),
            entrypoint=row.entrypoint,
            parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
            # Not said where a person paused it: then it stays as it is.
            paused=None if seen is not None and seen.is_paused and not row.paused else row.paused,
            pull_steps=PULL_STEPS,
            enforce_parameter_schema=True,
            job_variables=dict(row.job_variables),
        )

    def _automation(self, row: AutomationRow, seen: Seen | None) -> None:
        action = dict(row.action)
        if "deployment" in action:
            action["deployment_id"] = self._deployments[action.pop("deployment")]
        if "block" in action:
            action["block_document_id"] = self._found.blocks[action.pop("block")]
        kept = seen is not None and seen.is_paused and row.enabled
        core = AutomationCore.model_validate(
            {
                "name": row.name,
                "description": row.description,
                "enabled": False if kept else row.enabled,
                "trigger": row.trigger,
                "actions": [action],
            }
        )
        if seen is not None:
            self._client.update_automation(seen.id, core)
            return
        if row.owner is not None:
            # `prefect deploy` replaces what the deployment owns; so it finds this one, too.
            core.owner_resource = f"prefect.deployment.{self._deployments[row.owner]}"
        self._client.create_automation(core)


def _options(row: DeploymentRow) -> ConcurrencyOptions | None:
    if row.collision is None:
        return None
    return ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy(row.collision))
