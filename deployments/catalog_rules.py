"""Rules between the sections of a catalog, and those of schedules and pools."""

import asyncio
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from prefect.client.schemas.schedules import CronSchedule
from prefect.server.schemas.schedules import CronSchedule as ServersCronSchedule
from pydantic import ValidationError

from cogvx.errors import Problem
from deployments.catalog_sections import (
    DEFAULT_QUEUE,
    PlacesConfig,
    PoolConfig,
    RecipeConfig,
    RetentionConfig,
    ZombiesConfig,
)
from deployments.env_rules import env_problems
from deployments.worker_rules import worker_problems
from tasks.settings import HEARTBEAT_SECONDS

# Prefect's workers for processes and containers kill after 30 s; it cannot be configured.
FIXED_GRACE_SECONDS = 30
# A pod's disk may be gone after its end, so its checkpoint also has to reach the store.
_UPLOAD_SECONDS = 130
_USUAL_UPLOAD_SECONDS = 160
# Limits have no tags on Prefect's server, so their names are the mark of what was made here.
LIMIT_MARK = "cogvx-"
_LEAST_HEARTBEATS = 3
_FIELDS = 5
# Names become part of addresses at Prefect's server, where "#" and "?" would end them.
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def grace_seconds(pool: PoolConfig) -> int:
    """How long a run of the pool that is stopped has before it is killed."""
    if pool.type != "kubernetes":
        return FIXED_GRACE_SECONDS
    return pool.grace_seconds or math.ceil(pool.stop_seconds) + _USUAL_UPLOAD_SECONDS


def name_problems(where: str, name: str, kind: str) -> list[Problem]:
    """A name that pools, queues and limits cannot have."""
    if _NAME.fullmatch(name):
        return []
    use = "use lower-case letters, digits and dashes, at most 63"
    return [Problem(where, None, f"is not named as a {kind} can be", use)]


def schedule_problems(cron: str, timezone: str, where: str) -> list[Problem]:
    """What Prefect cannot read of a schedule, or would read as nobody means it."""
    use = 'use minute, hour, day, month and weekday, as "0 3 * * *"'
    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        wrong = {str(detail["loc"][0]) for detail in error.errors()}
    else:
        wrong = set()
    problems = []
    if "cron" in wrong:
        problems.append(Problem(f"{where}.cron", cron, "is no cron expression", use))
    elif (fields := len(cron.split())) != _FIELDS:
        # Prefect takes a sixth for seconds, at the end: all others would mean something else.
        said = f"has {fields} field{'s' if fields > 1 else ''} instead of five"
        problems.append(Problem(f"{where}.cron", cron, said, use))
    elif not _is_ever_due(cron):
        never = "use a day that its month has"
        problems.append(Problem(f"{where}.cron", cron, "is never due", never))
    if "timezone" in wrong:
        use = 'use a name of the tz database, as "Europe/Berlin"'
        problems.append(Problem(f"{where}.timezone", timezone, "is no time zone", use))
    return problems


def _is_ever_due(cron: str) -> bool:
    """Whether Prefect's server, which asks in the same way, finds a date for it.

    On a thread of its own, as the caller's may have a loop that runs.
    """
    with ThreadPoolExecutor(1) as alone:
        try:
            alone.submit(asyncio.run, ServersCronSchedule(cron=cron).get_dates(1)).result()
        except ValueError:
            return False
    return True


def pool_problems(where: str, pool: PoolConfig, limits: Mapping[str, int]) -> Iterator[Problem]:
    """What a pool cannot be: of another type's settings, too impatient, or full of secrets."""
    yield from _type_problems(where, pool)
    uploading = _UPLOAD_SECONDS if pool.type == "kubernetes" else 0
    if pool.stop_seconds + uploading > grace_seconds(pool):
        yield _impatience(where, pool)
    taken = Counter(queue.priority for queue in pool.queues.values())
    for name, queue in pool.queues.items():
        yield from name_problems(f"{where}.queues.{name}", name, "queue")
        if taken[queue.priority] > 1:
            place = f"{where}.queues.{name}.priority"
            yield Problem(place, queue.priority, "is another queue's, too", "use another number")
    yield from env_problems(f"{where}.env", pool.env, limits)
    yield from worker_problems(where, pool)


def _type_problems(where: str, pool: PoolConfig) -> Iterator[Problem]:
    """Settings that workers of this type have no use for."""
    only = {
        "image": ("docker", "kubernetes"),
        "shm": ("docker", "kubernetes"),
        "memory": ("docker", "kubernetes"),
        "cpu": ("kubernetes",),
        "tolerations": ("kubernetes",),
        "node_selector": ("kubernetes",),
        "grace_seconds": ("kubernetes",),
    }
    for name, types in only.items():
        if pool.type not in types and getattr(pool, name):
            use = f"it is for {' and '.join(types)} only: remove it"
            yield Problem(f"{where}.{name}", None, f'means nothing in a "{pool.type}" pool', use)
    if pool.type != "process" and pool.image is None:
        yield Problem(f"{where}.image", None, "is missing", "name one with this project installed")


def _impatience(where: str, pool: PoolConfig) -> Problem:
    if pool.type != "kubernetes":
        wrong = f"is more than the {FIXED_GRACE_SECONDS} s after which Prefect's worker kills"
        use = f"use at most {FIXED_GRACE_SECONDS}"
        return Problem(f"{where}.stop_seconds", pool.stop_seconds, wrong, use)
    least = math.ceil(pool.stop_seconds) + _UPLOAD_SECONDS
    wrong = (
        f"is too short to save in stop_seconds = {pool.stop_seconds:g} and to send the checkpoint "
        "to the store"
    )
    return Problem(f"{where}.grace_seconds", pool.grace_seconds, wrong, f"use at least {least}")


def place_problems(
    rows: Mapping[int, RecipeConfig],
    retention: RetentionConfig | None,
    *,
    known: Iterable[str],
    pools: Mapping[str, PoolConfig],
) -> Iterator[Problem]:
    """Schedules that cannot be read; pools and queues that are not there; tags of our own.

    `known` are the names of all pools, `pools` those that could be read.
    """
    names = list(known)
    for role, pool in _places(PlacesConfig()):
        if pool not in names:
            use = f"add [pools.{pool}]: {role} runs there where a recipe says nothing else"
            yield Problem(f"pools.{pool}", None, "is missing", use)
    for index, row in rows.items():
        where = f"recipes[{index}]"
        yield from schedule_problems(row.cron or "0 0 * * *", row.timezone, where)
        for role, pool in _places(row.places):
            if pool not in names and role in row.places.model_fields_set:
                yield _unknown_pool(f"{where}.places.{role}", pool, names)
        yield from _tag_problems(f"{where}.tags", row.tags)
        parent = pools.get(row.places.parent)
        if parent is not None and row.queue not in {DEFAULT_QUEUE, *parent.queues}:
            use = f"add [pools.{row.places.parent}.queues.{row.queue}]"
            yield Problem(f"{where}.queue", row.queue, "is no queue of its pool", use)
    if retention is not None:
        yield from schedule_problems(retention.cron, retention.timezone, "retention")
        if retention.pool not in names and "pool" in retention.model_fields_set:
            yield _unknown_pool("retention.pool", retention.pool, names)


def _tag_problems(where: str, tags: Iterable[str]) -> Iterator[Problem]:
    """Tags that say who paused a deployment, or that no other run waits for its runs."""
    for index, tag in enumerate(tags):
        if tag.startswith("cogvx"):
            wrong = "begins as the marks of `cogvx deploy` do"
            yield Problem(f"{where}[{index}]", tag, wrong, "use another word")


def zombie_problems(zombies: ZombiesConfig) -> list[Problem]:
    """A window in which healthy runs would be called dead."""
    least = _LEAST_HEARTBEATS * HEARTBEAT_SECONDS
    if zombies.within_seconds >= least:
        return []
    wrong = f"is less than {_LEAST_HEARTBEATS} heartbeats of {HEARTBEAT_SECONDS} s"
    value = zombies.within_seconds
    return [Problem("zombies.within_seconds", value, wrong, f"use at least {least}")]


def _places(places: PlacesConfig) -> list[tuple[str, str]]:
    return [(role, getattr(places, role)) for role in PlacesConfig.model_fields]


def _unknown_pool(where: str, pool: str, names: list[str]) -> Problem:
    return Problem(where, pool, "is no pool of this catalog", f"known: {', '.join(names)}")
