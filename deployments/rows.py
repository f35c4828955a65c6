"""What a catalog asks for, row by row: work pools, limits, deployments and automations.

Plain typed rows; no server is asked. Everything here carries a mark by which it is found again when
its row is gone: the tag `cogvx`, the beginning of an automation's name and of a limit's.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect import Flow

from deployments.catalog import Catalog, CatalogRecipe
from deployments.catalog_sections import DEFAULT_QUEUE, Collision, PlacesConfig, PoolConfig
from deployments.env_rules import STOP
from deployments.gpu_rules import RESERVED, reserved_gpus
from deployments.pools import base_job_template
from deployments.reactions import TOP_TAG, AutomationRow, automations
from tasks.settings import EVERYWHERE

TAG = "cogvx"
PAUSED_TAG = "cogvx:paused"
"""On what the catalog paused, to tell it from what a person paused."""


@dataclass(frozen=True)
class PoolRow:
    """A work pool and its queues; a queue is (priority, most runs or None)."""

    name: str
    type: str
    template: Mapping[str, Any]
    concurrency: int | None
    queues: Mapping[str, tuple[int, int | None]]


@dataclass(frozen=True)
class LimitRow:
    """A global concurrency limit; flows ask for it strictly, so it must be there."""

    name: str
    slots: int


@dataclass(frozen=True)
class Cron:
    """At the times of a cron expression in a time zone."""

    cron: str
    timezone: str


@dataclass(frozen=True)
class Every:
    """Each so many seconds."""

    seconds: int


@dataclass(frozen=True)
class DeploymentRow:
    """A flow on a pool; its full name is `flow/name`.

    `limit` is how many runs may be under way, and `collision` what becomes of one more.
    """

    flow: str
    name: str
    entrypoint: str
    pool: str
    queue: str = DEFAULT_QUEUE
    parameters: Mapping[str, Any] = field(default_factory=dict)
    schedule: Cron | Every | None = None
    tags: tuple[str, ...] = (TAG,)
    job_variables: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    collision: Collision | None = None
    paused: bool = False

    @property
    def full_name(self) -> str:
        """As people and settings write it."""
        return f"{self.flow}/{self.name}"


@dataclass(frozen=True)
class Desired:
    """All rows of a catalog."""

    pools: tuple[PoolRow, ...]
    limits: tuple[LimitRow, ...]
    deployments: tuple[DeploymentRow, ...]
    automations: tuple[AutomationRow, ...]


def desired(catalog: Catalog) -> Desired:
    """The rows of a catalog."""
    deployments = (
        *_shared(catalog),
        *(_retrain(catalog, one) for one in catalog.recipes),
        *_watches(catalog),
        *_retention(catalog),
    )
    return Desired(
        pools=tuple(_pool_row(name, pool) for name, pool in catalog.pools.items()),
        limits=tuple(LimitRow(name, slots) for name, slots in catalog.limits.items()),
        deployments=deployments,
        automations=automations(catalog),
    )


def flow_of(entrypoint: str) -> Flow[..., Any]:
    """The flow of a row; found wherever the project is installed."""
    module, _, name = entrypoint.rpartition(".")
    found: Flow[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _pool_row(name: str, pool: PoolConfig) -> PoolRow:
    """The row of a pool."""
    return PoolRow(
        name=name,
        type=pool.type,
        template=base_job_template(pool),
        concurrency=pool.concurrency,
        queues={key: (queue.priority, queue.concurrency) for key, queue in pool.queues.items()},
    )


def _job_variables(pool: PoolConfig, **env: str) -> dict[str, Any]:
    """What a run is given; the variable `command` stays unset, see `deployments.pools`."""
    ours = {STOP: f"{pool.stop_seconds:g}"}
    if gpus := reserved_gpus(pool):
        ours[RESERVED] = str(gpus)
    plain: dict[str, Any] = {"env": {**EVERYWHERE, **ours, **pool.env, **env}}
    # A process runs in the worker's own folder, where relative paths of recipes are meant.
    return {"working_dir": ".", **plain} if pool.type == "process" else plain


def _top_tags(*more: str, paused: bool) -> tuple[str, ...]:
    """Tags of what nothing else starts and waits for."""
    return tuple(dict.fromkeys((TAG, TOP_TAG, *((PAUSED_TAG,) if paused else ()), *more)))


def _recipe(one: CatalogRecipe) -> dict[str, Any]:
    """The parameter `recipe`; what it leaves open stays open, as the form knows no null."""
    return {"recipe": one.recipe.model_dump(mode="json", exclude_none=True)}


def _on(catalog: Catalog, pool: str, entrypoint: str) -> DeploymentRow:
    """A deployment named after its pool, for runs that others start, and mostly wait for."""
    return DeploymentRow(
        flow=flow_of(entrypoint).name,
        name=pool,
        entrypoint=entrypoint,
        pool=pool,
        tags=_top_tags(paused=False) if entrypoint == _PROMOTE else (TAG,),
        job_variables=_job_variables(catalog.pools[pool]),
    )


# Asks a person and then acts, while the retrain that started it has long ended.
_PROMOTE = "flows.promote.promote"
# What runs on the pools of each place, started by runs of retrain.
_SHARED = {
    "cache": ("flows.encode.encode_shard",),
    "train": ("flows.train.train",),
    "evaluate": ("flows.generate.generate_shard", "flows.measure.measure_shard"),
    "parent": (_PROMOTE,),
}


def _shared(catalog: Catalog) -> list[DeploymentRow]:
    """On every pool that a recipe names for it, and on the usual one."""
    places = [PlacesConfig(), *(one.row.places for one in catalog.recipes)]
    return [
        _on(catalog, pool, entrypoint)
        for place, entrypoints in _SHARED.items()
        for pool in dict.fromkeys(getattr(each, place) for each in places)
        for entrypoint in entrypoints
    ]


def _retrain(catalog: Catalog, one: CatalogRecipe) -> DeploymentRow:
    row, places = one.row, one.row.places
    elsewhere = {
        "COGVX_ENCODE_DEPLOYMENT": f"encode/{places.cache}",
        "COGVX_TRAIN_DEPLOYMENT": f"train/{places.train}",
        "COGVX_GENERATE_DEPLOYMENT": f"generate-shard/{places.evaluate}",
        "COGVX_MEASURE_DEPLOYMENT": f"measure-shard/{places.evaluate}",
        "COGVX_PROMOTE_DEPLOYMENT": f"promote/{places.parent}",
    }
    return DeploymentRow(
        flow="retrain",
        name=one.recipe.name,
        entrypoint="flows.retrain.retrain",
        pool=places.parent,
        queue=row.queue,
        parameters=_recipe(one),
        schedule=Cron(row.cron, row.timezone) if row.cron else None,
        tags=_top_tags(*row.tags, paused=row.paused),
        job_variables=_job_variables(catalog.pools[places.parent], **elsewhere),
        limit=1,
        collision=row.collision,
        paused=row.paused,
    )


def _watches(catalog: Catalog) -> list[DeploymentRow]:
    """A watch for each recipe that arrivals retrain."""
    if catalog.watch is None:
        return []
    schedule = Every(catalog.watch.every)
    return [
        DeploymentRow(
            flow="watch",
            name=one.recipe.name,
            entrypoint="flows.watch.watch",
            pool=one.row.places.parent,
            parameters=_recipe(one),
            schedule=schedule,
            tags=_top_tags(paused=one.row.paused),
            job_variables=_job_variables(catalog.pools[one.row.places.parent]),
            limit=1,
            # Two looks at once would see the same.
            collision="CANCEL_NEW",
            paused=one.row.paused,
        )
        for one in catalog.recipes
        if one.row.on_arrival
    ]


def _retention(catalog: Catalog) -> list[DeploymentRow]:
    """The sweep of the store, if the catalog wants it."""
    if (row := catalog.retention) is None:
        return []
    said = row.model_dump(include={"apply", "keep_days", "grace_days", "keep_last"})
    return [
        DeploymentRow(
            flow="retention",
            name="store",
            entrypoint="flows.retention.retention",
            pool=row.pool,
            parameters={name: value for name, value in said.items() if value is not None},
            schedule=Cron(row.cron, row.timezone),
            tags=_top_tags(paused=False),
            job_variables=_job_variables(catalog.pools[row.pool]),
            limit=1,
            collision="CANCEL_NEW",
        )
    ]
