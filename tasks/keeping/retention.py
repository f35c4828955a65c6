"""Old versions leave the store: found by the registry, marked, and swept after a grace period.

What such a version has in MLflow stays: its page, its numbers, and its own copy of the adapter.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE

from cogvx.housekeeping import prune
from cogvx.housekeeping.names import kind_of
from cogvx.housekeeping.reach import Leaving, Reach, Registered, find_reach
from cogvx.housekeeping.retention import Candidate, Rule, why_kept
from cogvx.store import ObjectInfo, ObjectStore
from tasks.clients.registry import CHAMPION, Registry, Version
from tasks.clients.runs import RUN_TAG
from tasks.clients.stores import open_record_store
from tasks.clients.versions import JUDGED_AT_TAG, KEEP_TAG, SWEPT_TAG
from tasks.keeping.housekeeping import (
    ages_of,
    deciding,
    everything,
    registered_as,
    require_same_home,
)
from tasks.keeping.housekeeping_documents import Going, Group, RetentionReport, VersionFate
from tasks.keeping.retention_marks import keep_marks, marked
from tasks.keeping.retention_page import show_retention
from tasks.pages.progress import Progress
from tasks.pools.retries import RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.settings import settings

logger = logging.getLogger(__name__)

_EXAMPLES = 3
_NOT_PINNED = ("", "false", "no", "0")


@dataclass(frozen=True)
class _Versions:
    """All versions of an MLflow, and why those that stay do."""

    all: tuple[Version, ...]
    registered: tuple[Registered, ...]
    stays: Mapping[str, str]

    @property
    def leaving(self) -> tuple[str, ...]:
        """Those of ours that have no reason to stay, by name."""
        return tuple(one.name for one in self.registered if one.run and one.name not in self.stays)


@task(
    name="sweep the store",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def sweep_store(
    *,
    apply: bool,
    keep_days: float,
    grace_days: float,
    keep_last: int,
    begun_with: Callable[[], frozenset[str]],
) -> RetentionReport:
    """Find what no version that stays needs, and with `apply` remove it.

    Without `apply` nothing is written, and versions count as marked long ago: it is told what would
    be gone in the end.

    Args:
        apply: Whether anything is removed.
        keep_days: How long versions and manifests keep what they reach.
        grace_days: How long everything stays that is not reached.
        keep_last: How many versions of each model keep what they reach.
        begun_with: Asked, once the store was listed, for the runs that deployed recipes begin with.

    Raises:
        CogvxError: Something that says what is needed cannot be read; nothing was removed.
        TransientError: Something became needed meanwhile; run again for the rest.
    """
    here, now = settings(), time.time()
    store = open_record_store(here)
    ages = ages_of(keep_days, grace_days)
    registry = Registry(here.mlflow_uri, here.mlflow_artifacts, store)
    with deciding():
        # Listed first: what becomes needed from now on is seen to be new before it is removed.
        objects = everything(store)
        found = _find_versions(registry, Rule(keep=ages.keep, last=keep_last), now)
        require_same_home(here, objects, found.registered)
        marks = marked(store, found.leaving, now)
        due = [name for name in found.leaving if not apply or now - marks[name] >= ages.grace]
        leaving = Leaving(
            frozenset(due),
            unfinished_before=now - ages.keep - ages.grace,
            begun_with=begun_with(),
        )
        reach = find_reach(store, objects, found.registered, ages, leaving)
    sorted_out = prune.sort_out(objects.values(), reach, ages)
    if apply:
        keep_marks(store, marks)
        progress = Progress("sweep", "objects", logger)
        prune.remove(store, sorted_out.removable, objects, on_progress=progress, decisions=True)
        _tag_swept(store, registry, found, reach)
    left = {words: _size(objects, keys) for words, keys in _by_words(reach, sorted_out).items()}
    report = RetentionReport(
        store=store.url,
        applied=apply,
        goes=_going(sorted_out),
        stays=tuple(
            Group(name=why, objects=tally.objects, bytes=tally.bytes)
            for why, tally in sorted_out.stays.items()
        ),
        versions=tuple(
            _fate(one, found.stays, marks, reach, due=due, grace=ages.grace, left=left)
            for one in found.registered
            if one.run
        ),
    )
    show_retention(report)
    return report


def _find_versions(registry: Registry, rule: Rule, now: float) -> _Versions:
    """Every version, and which stay, by their aliases, their past, their age, and people."""
    versions: list[Version] = []
    candidates: list[Candidate] = []
    for model in registry.model_names():
        own = registry.versions(model)
        versions += own
        ours = [version for version in own if version.tags.get(RUN_TAG)]
        champions = _champions(registry, model) if ours else frozenset()
        candidates += [_candidate(version, champions) for version in ours]
    return _Versions(
        tuple(versions),
        tuple(registered_as(version) for version in versions),
        why_kept(candidates, rule, now=now),
    )


def _champions(registry: Registry, model: str) -> frozenset[int]:
    """Every version that was champion, however shortly."""
    moves = registry.history(model)
    stood = [aliases.get(CHAMPION) for move in moves for aliases in (move.before, move.after)]
    return frozenset(number for number in stood if number is not None)


def _candidate(version: Version, champions: frozenset[int]) -> Candidate:
    times = [version.made] if version.made is not None else []
    judged = version.tags.get(JUDGED_AT_TAG)
    if judged:
        times.append(datetime.fromisoformat(judged))
    return Candidate(
        model=version.name,
        number=version.version,
        registered=registered_as(version),
        touched=max(time.timestamp() for time in times) if version.made is not None else None,
        aliases=version.aliases,
        was_champion=version.version in champions,
        pinned=version.tags.get(KEEP_TAG, "").strip().lower() not in _NOT_PINNED,
    )


def _tag_swept(store: ObjectStore, registry: Registry, found: _Versions, reach: Reach) -> None:
    """Say on the pages of versions that their adapters are not in the store any more."""
    today = datetime.now(UTC).date().isoformat()
    for version, registered in zip(found.all, found.registered, strict=True):
        if registered.run not in reach.forgotten or SWEPT_TAG in version.tags:
            continue
        if not any(store.entries(f"adapters/{registered.adapter}/")):
            registry.tag_version(version.name, version.version, {SWEPT_TAG: today})


def _by_words(reach: Reach, found: prune.Sorted) -> dict[str, list[str]]:
    """What goes, by who left it."""
    keys: dict[str, list[str]] = defaultdict(list)
    for info in found.removable:
        if info.key in reach.left_by:
            keys[reach.left_by[info.key]].append(info.key)
    return keys


def _size(objects: Mapping[str, ObjectInfo], keys: Sequence[str]) -> int:
    return sum(objects[key].size for key in keys)


def _going(found: prune.Sorted) -> tuple[Going, ...]:
    groups: dict[tuple[str, str], list[ObjectInfo]] = defaultdict(list)
    for info in found.removable:
        groups[kind_of(info.key), found.why[info.key]].append(info)
    return tuple(
        Going(
            kind=kind,
            why=why,
            objects=len(infos),
            bytes=sum(info.size for info in infos),
            examples=tuple(info.key for info in infos[:_EXAMPLES]),
        )
        for (kind, why), infos in groups.items()
    )


def _fate(
    version: Registered,
    stays: Mapping[str, str],
    marks: Mapping[str, float],
    reach: Reach,
    *,
    due: Container[str],
    grace: float,
    left: Mapping[str, int],
) -> VersionFate:
    name = version.name
    if name in stays:
        return VersionFate(name=name, stays=True, why=stays[name])
    day = datetime.fromtimestamp(marks[name] + grace, UTC).date().isoformat()
    if version.run in reach.forgotten:
        why = "old, never champion, no alias, not pinned"
        return VersionFate(name=name, stays=False, why=why, leaves=day, bytes=left.get(name, 0))
    if name not in due:
        why = f"old, never champion, no alias, not pinned; pin it with the tag {KEEP_TAG} by then"
        return VersionFate(name=name, stays=True, why=why, leaves=day)
    why = (
        "its clips are the newest of a dataset, or another run that stays, or a recipe that is "
        "deployed, begins with its weights"
    )
    return VersionFate(name=name, stays=True, why=why)
