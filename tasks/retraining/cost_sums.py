"""What was spent for a model's adapters, each attempt counted once, kept and told to MLflow.

    costs/<model>/sums/<seq>.json    CostSum: attempts that went into an adapter, with their money

An adapter is charged with everything that was spent for its model since the one before it, runs
that failed or were killed among it. Sums only ever follow each other, and each has the attempts
that none before it has: of two that race for a number one looks again. What was priced stays at the
price of its day.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict

from cogvx.digest import canonical_json
from cogvx.errors import CogvxError
from cogvx.store import ObjectInfo, ObjectStore
from tasks.clients.registry import Point, Registry
from tasks.clients.versions import COST_TAG
from tasks.documents import CostReport, RetrainReport, Saved, StageCost, TrainReport
from tasks.pools.metering import KEPT_EVERY_SECONDS, Spent, attempts_of
from tasks.retraining.costs import cost_metrics, cost_of, merge, saved_of, total_text
from tasks.settings import Settings
from tasks.training.register import open_registry
from tasks.workbench import Workbench, read_stored

logger = logging.getLogger(__name__)

# Whoever has not written for so long was killed, so what is written is all.
_DEAD_AFTER_SECONDS = 3 * KEPT_EVERY_SECONDS
_READERS = 16


class CostSum(BaseModel):
    """Attempts that nobody counted before, and the adapter's run that they count for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    run: str
    attempts: tuple[str, ...]
    stages: tuple[StageCost, ...]


@task(name="sum up costs", cache_policy=NO_CACHE)
def settle_costs(bench: Workbench, report: RetrainReport) -> RetrainReport:
    """Sum up what was spent, and tell MLflow; returns the report with it.

    All else is done by now, so what cannot be summed up is said, and fails no retraining: the next
    one finds the same attempts.
    """
    if report.train is None:
        return report
    try:
        return report.model_copy(update={"cost": _settle(bench, report.train, report)})
    except CogvxError as error:
        logger.warning("what this adapter cost is not known yet: %s", error)
        return report


def _settle(bench: Workbench, trained: TrainReport, report: RetrainReport) -> CostReport:
    model, run = bench.recipe.name, trained.run
    sums = add_attempts(bench.store, model, run, bench.settings)
    registry = open_registry(bench)
    cost = sum_up(sums, model, run, promoted=_promoted(registry, model), here=bench.settings)
    cost = cost.model_copy(update={"saved": _saved(report, cost.history)})
    run_id = registry.find_run(model, run)
    if run_id is not None:
        registry.log_metrics(run_id, [Point(*pair) for pair in cost_metrics(cost).items()])
    if report.register_ is not None:
        told = {COST_TAG: total_text(cost.stages, cost.unit)}
        registry.tag_version(model, report.register_.version, told)
    return cost


def add_attempts(store: ObjectStore, model: str, run: str, here: Settings) -> tuple[CostSum, ...]:
    """Count the attempts that nobody counted for this run; returns all sums, oldest first."""
    while True:
        sums = _read_sums(store, model)
        counted = {name for each in sums for name in each.attempts}
        new = _read_attempts(store, model, counted)
        if not new:
            return sums
        found = CostSum(run=run, attempts=tuple(new), stages=cost_of(new.values(), here))
        if store.create(_sum_key(model, len(sums) + 1), canonical_json(found)):
            return (*sums, found)


def uncounted_costs(store: ObjectStore, model: str, here: Settings) -> tuple[StageCost, ...]:
    """What was spent for a model and no adapter is charged with yet; nothing is written down."""
    counted = {name for each in _read_sums(store, model) for name in each.attempts}
    return cost_of(_read_attempts(store, model, counted).values(), here)


def sum_up(
    sums: Sequence[CostSum], model: str, run: str, *, promoted: int, here: Settings
) -> CostReport:
    """What one run's adapter cost, and all of its model together."""
    return CostReport(
        model=model,
        run=run,
        stages=merge(stage for each in sums if each.run == run for stage in each.stages),
        adapters=len({each.run for each in sums} | {run}),
        promoted=promoted,
        history=merge(stage for each in sums for stage in each.stages),
        unit=here.currency,
    )


def _saved(report: RetrainReport, history: Sequence[StageCost]) -> tuple[Saved, ...]:
    records = 0 if report.cache is None else report.cache.records_reused
    videos = 0 if report.evaluate is None else report.evaluate.videos_reused
    return saved_of("cache", records, history), saved_of("generate", videos, history)


def _promoted(registry: Registry, model: str) -> int:
    moves = registry.history(model)
    return len({move.version for move in moves if move.act == "promoted"})


def _read_sums(store: ObjectStore, model: str) -> tuple[CostSum, ...]:
    keys = [info.key for info in store.entries(f"costs/{model}/sums/")]
    # a store far away may list late what it already has
    while store.info(following := _sum_key(model, len(keys) + 1)) is not None:
        keys.append(following)
    with ThreadPoolExecutor(_READERS) as readers:
        return tuple(readers.map(lambda key: read_stored(store, key, CostSum), keys))


def _read_attempts(store: ObjectStore, model: str, counted: set[str]) -> dict[str, Spent]:
    """Those that have ended, or whose process must have, and that nobody counted."""
    found = [info for info in store.entries(attempts_of(model)) if _name(info) not in counted]
    with ThreadPoolExecutor(_READERS) as readers:
        read = readers.map(lambda info: read_stored(store, info.key, Spent), found)
        pairs = [(info, spent) for info, spent in zip(found, read, strict=True)]
    return {_name(info): spent for info, spent in pairs if spent.ended or _is_dead(info)}


def _is_dead(info: ObjectInfo) -> bool:
    return time.time() - info.modified > _DEAD_AFTER_SECONDS


def _name(info: ObjectInfo) -> str:
    return info.key.rpartition("/")[2].removesuffix(".json")


def _sum_key(model: str, seq: int) -> str:
    return f"costs/{model}/sums/{seq:08d}.json"
