"""Rows and what a server holds of them as one kind of plain document, so that they can be compared.

A document names other things where Prefect has ids. What the server keeps beside (when a worker was
last seen, how many slots are taken, what is paused) is in none.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import version
from typing import Any

from prefect.client.schemas.objects import DeploymentSchedule, WorkPool, WorkQueue
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import SCHEDULE_TYPES, CronSchedule, IntervalSchedule
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.utilities.callables import parameter_schema

from cogvx.digest import digest
from deployments.reactions import AutomationRow
from deployments.rows import Cron, DeploymentRow, PoolRow, flow_of

Document = Mapping[str, Any]

MADE_HERE = "cogvx: made by `cogvx deploy`, which puts back what is changed here"
"""Description of pools and queues, by which those of removed rows are found."""
PULL_STEPS = [{"prefect.deployments.steps.set_working_directory": {"directory": "."}}]
"""Runs in the folder where it is. Without a step Prefect would copy that folder first."""
SLUG = "catalog"
VERSION = version("cogvx")
_ANCHOR = datetime(2020, 1, 1, tzinfo=UTC)
_SETS = ("after", "expect", "for_each")


def pool_document(row: PoolRow) -> Document:
    """Of a row."""
    queues = {
        name: {"priority": priority, "concurrency": most}
        for name, (priority, most) in row.queues.items()
    }
    return {
        "type": row.type,
        "concurrency": row.concurrency,
        "description": MADE_HERE,
        "queues": queues,
        "template": row.template,
    }


def pool_at_server(pool: WorkPool, queues: Iterable[WorkQueue], wanted: PoolRow) -> Document:
    """Of what the server has; queues that people made for themselves are no part of it."""
    ours = [
        queue
        for queue in queues
        if queue.name in wanted.queues or (queue.description or "") == MADE_HERE
    ]
    return {
        "type": pool.type,
        "concurrency": pool.concurrency_limit,
        "description": pool.description,
        "queues": {
            queue.name: {"priority": queue.priority, "concurrency": queue.concurrency_limit}
            for queue in ours
        },
        "template": pool.base_job_template,
    }


def deployment_document(row: DeploymentRow) -> Document:
    """Of a row; its form is a digest of the schema that Prefect's pages make the form from."""
    flow = flow_of(row.entrypoint)
    return {
        "pool": row.pool,
        "queue": row.queue,
        "entrypoint": row.entrypoint,
        "schedules": [] if row.schedule is None else [_schedule(schedule_of(row), {})],
        "tags": sorted(row.tags),
        "limit": row.limit,
        "collision": row.collision,
        "paused": row.paused,
        "parameters": row.parameters,
        "job_variables": row.job_variables,
        "pull_steps": PULL_STEPS,
        "description": flow.description,
        "version": VERSION,
        "enforced": True,
        "form": _form_of(row.entrypoint),
    }


def deployment_at_server(found: DeploymentResponse) -> Document:
    """Of what the server has."""
    limit, options = found.global_concurrency_limit, found.concurrency_options
    return {
        "pool": found.work_pool_name,
        "queue": found.work_queue_name,
        "entrypoint": found.entrypoint,
        "schedules": [_schedule(each.schedule, _extras(each)) for each in found.schedules],
        "tags": sorted(found.tags),
        "limit": None if limit is None else limit.limit,
        "collision": None if options is None else options.collision_strategy.value,
        "paused": found.paused,
        "parameters": found.parameters,
        "job_variables": found.job_variables,
        "pull_steps": found.pull_steps,
        "description": found.description,
        "version": found.version,
        "enforced": found.enforce_parameter_schema,
        "form": _form(found.parameter_openapi_schema or {}),
    }


@cache
def _form_of(entrypoint: str) -> str:
    """The form of a flow of ours, which takes a while to make."""
    return _form(parameter_schema(flow_of(entrypoint)).model_dump_for_openapi())


def _form(schema: Document) -> str:
    """A digest of what a form is made from; some of Prefect's writers leave out what is empty."""
    return digest({name: part for name, part in schema.items() if part})[:16]


def schedule_of(row: DeploymentRow) -> SCHEDULE_TYPES:
    """A row's schedule as Prefect takes it; the row has one."""
    assert row.schedule is not None
    if isinstance(row.schedule, Cron):
        return CronSchedule(cron=row.schedule.cron, timezone=row.schedule.timezone)
    interval = timedelta(seconds=row.schedule.seconds)
    return IntervalSchedule(interval=interval, anchor_date=_ANCHOR, timezone="UTC")


def _schedule(schedule: SCHEDULE_TYPES, extras: Document) -> Document:
    if isinstance(schedule, CronSchedule):
        extras = extras if schedule.day_or else {**extras, "day_or": False}
        return {"cron": schedule.cron, "timezone": schedule.timezone, **extras}
    if isinstance(schedule, IntervalSchedule):
        anchor = schedule.anchor_date
        extras = extras if anchor == _ANCHOR else {**extras, "anchor": str(anchor)}
        return {"every": schedule.interval.total_seconds(), "timezone": schedule.timezone, **extras}
    return {**schedule.model_dump(mode="json"), **extras}


def _extras(found: DeploymentSchedule) -> Document:
    """What a catalog never says of a schedule; active or not is for people to decide."""
    said = {
        "slug": None if found.slug == SLUG else found.slug,
        "parameters": found.parameters,
        "max_scheduled_runs": found.max_scheduled_runs,
    }
    return {name: value for name, value in said.items() if value}


def automation_document(row: AutomationRow) -> Document:
    """Of a row."""
    return {
        "description": row.description,
        "enabled": row.enabled,
        "trigger": _trigger(EventTrigger.model_validate(row.trigger)),
        "actions": [dict(row.action)],
    }


def automation_at_server(found: AutomationCore, names: Mapping[str, str]) -> Document:
    """Of what the server has; `names` are those of deployments and blocks by their id."""
    return {
        "description": found.description,
        "enabled": found.enabled,
        "trigger": _trigger(found.trigger),
        "actions": [
            _action(
                action.model_dump(mode="json", exclude_defaults=True) | {"type": action.type}, names
            )
            for action in found.actions
        ],
    }


def _action(action: dict[str, Any], names: Mapping[str, str]) -> Document:
    for key, name in (("deployment_id", "deployment"), ("block_document_id", "block")):
        if key in action:
            number = str(action.pop(key))
            action[name] = names.get(number, number)
    return action


def _trigger(trigger: Any) -> Document:
    """A trigger in one order: Prefect keeps events as sets."""
    plain: dict[str, Any] = json.loads(trigger.model_dump_json())
    return {
        name: sorted(value) if name in _SETS else value
        for name, value in plain.items()
        if value not in ({}, [])
    }
