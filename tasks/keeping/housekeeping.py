"""Housekeeping of the store: open it and MLflow, ask the library, hand back what it found."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from cogvx.cache.index import index_cache
from cogvx.cache.materialise import drop_damaged
from cogvx.errors import CogvxError, ConfigError, error_from_name
from cogvx.housekeeping import prune, stats, verify
from cogvx.housekeeping.documents import read_indexes
from cogvx.housekeeping.names import RECORDS, Kind, folder_of, kind_of
from cogvx.housekeeping.reach import Ages, Registered, find_reach
from cogvx.housekeeping.whose import find_whose
from cogvx.recipe import Recipe
from cogvx.store import KeepsLeftovers, LocalStore, ObjectInfo, ObjectStore
from tasks.clients.registry import ADAPTER_TAG, MANIFEST_TAG, Registry, Version
from tasks.clients.runs import RUN_TAG
from tasks.clients.secrets import without_secrets
from tasks.clients.stores import kept_on_disk, open_record_store
from tasks.keeping.housekeeping_documents import DamagedRecord, Group, PruneReport, VerifyReport
from tasks.lineage import JUDGED_TAG
from tasks.pages.progress import Progress
from tasks.settings import Settings, settings
from tasks.workbench import Workbench, open_workbench

logger = logging.getLogger(__name__)

DAY = 86_400.0
KEEP_DAYS = 30.0
GRACE_DAYS = 1.0


def store_stats(recipe: Recipe | None) -> stats.StoreStats:
    """Count what the store holds, and for a recipe what it wants; reads no record.

    An MLflow that does not answer costs only the versions' share; it is noted.
    """
    here = settings()
    store = open_record_store(here)
    objects = everything(store)
    versions, notes = _versions_if_possible(here)
    reach = find_reach(store, objects, versions, ages_of(KEEP_DAYS, GRACE_DAYS))
    indexes = (index for _, index in read_indexes(store, _of_kind(objects, "indexes")))
    unneeded = stats.count_unneeded(objects.values(), reach)
    return stats.StoreStats(
        store=store.url,
        kinds=stats.count_kinds(objects.values()),
        made=stats.count_made(objects, indexes),
        roots=tuple(
            stats.RootFacts(name=root.name, wanted=root.wanted, present=root.present)
            for root in reach.roots
        ),
        unneeded_objects=unneeded[0],
        unneeded_bytes=unneeded[1],
        recipe=() if recipe is None else stats.count_wanted(objects, _wanted(recipe)),
        disk=_disk(here, store),
        notes=(*notes, *dict.fromkeys(reach.unclear.values())),
    )


def verify_records(recipe: Recipe | None, *, drop: bool) -> VerifyReport:
    """Read and verify the records of the store, or those that a recipe needs.

    Args:
        recipe: Whose records; None for all.
        drop: Remove damaged ones, so that the next cache run encodes them again.
    """
    store = open_record_store(settings())
    wanted = None if recipe is None else _wanted(recipe)
    objects = _listing(store, "records/")
    keys = [key for key in objects if kind_of(key) in RECORDS and (wanted is None or key in wanted)]
    found = verify.find_damaged(
        store, keys, on_progress=Progress("verify records", "records", logger)
    )
    names = find_whose(store, [fault.key for fault in found]) if found else {}
    dropped = drop_damaged(store, [fault.key for fault in found]) if drop else ()
    return VerifyReport(
        store=store.url,
        verified=len(keys),
        bytes=sum(objects[key].size for key in keys),
        missing=0 if wanted is None else len(wanted) - len(keys),
        damaged=tuple(
            DamagedRecord(key=fault.key, of=str(names[fault.key]), why=fault.why) for fault in found
        ),
        dropped=len(dropped),
    )


def prune_store(*, apply: bool, keep_days: float, grace_days: float) -> PruneReport:
    """Find what nothing needs any more, and with `apply` remove it.

    Raises:
        CogvxError: Something that says what is needed cannot be read; nothing was removed.
        TransientError: Something became needed meanwhile; the message says how many are gone.
    """
    here = settings()
    store = open_record_store(here)
    ages = ages_of(keep_days, grace_days)
    with deciding():
        # Listed first: what becomes needed from now on is seen to be new before it is removed.
        objects = everything(store)
        versions = _versions(here)
        require_same_home(here, objects, versions)
        reach = find_reach(store, objects, versions, ages)
    sorted_out = prune.sort_out(objects.values(), reach, ages)
    if apply:
        progress = Progress("prune", "objects", logger)
        prune.remove(store, sorted_out.removable, objects, on_progress=progress)
    return PruneReport(
        store=store.url,
        applied=apply,
        goes=_groups(sorted_out.by_kind()),
        stays=_groups(sorted_out.stays),
    )


@contextmanager
def deciding() -> Iterator[None]:
    """What fails while it is found out what is needed fails before anything is removed."""
    try:
        yield
    except CogvxError as error:
        raise error_from_name(
            type(error).__name__, f"nothing is pruned, as it is not known what is needed: {error}"
        ) from error


def _disk(here: Settings, store: ObjectStore) -> stats.DiskCache | None:
    """Copies on this machine's disk; a store that is a folder has none."""
    if kept_on_disk(store, here) is store:
        return None
    copies = list(LocalStore(here.disk_cache).entries())
    return stats.DiskCache(
        folder=str(here.disk_cache),
        objects=sum(kind_of(info.key) != "other" for info in copies),
        bytes=sum(info.size for info in copies),
        limit=round(here.disk_cache_gib * 2**30),
    )


def ages_of(keep_days: float, grace_days: float) -> Ages:
    """Days from now on, as ages of objects."""
    return Ages(now=time.time(), keep=keep_days * DAY, grace=grace_days * DAY)


def _listing(store: ObjectStore, prefix: str) -> dict[str, ObjectInfo]:
    return {info.key: info for info in store.entries(prefix)}


def everything(store: ObjectStore) -> dict[str, ObjectInfo]:
    """Every object, and what killed writers left beside them."""
    left = store.leftovers() if isinstance(store, KeepsLeftovers) else ()
    return _listing(store, "") | {info.key: info for info in left}


def _of_kind(objects: Iterable[str], kind: str) -> list[str]:
    return [key for key in objects if kind_of(key) == kind]


def _groups(tallies: Mapping[Kind, prune.Tally] | Mapping[str, prune.Tally]) -> tuple[Group, ...]:
    return tuple(
        Group(name=name, objects=tally.objects, bytes=tally.bytes)
        for name, tally in tallies.items()
    )


def _wanted(recipe: Recipe) -> set[str]:
    """Places of the records that a recipe needs for its newest clips."""
    bench: Workbench = open_workbench(recipe, purpose="cache")
    manifest = bench.latest_manifest()
    return index_cache(manifest, recipe, facts=bench.facts, ids=bench.ids).reaches()


def _versions(here: Settings) -> list[Registered]:
    registry = Registry(here.mlflow_uri, here.mlflow_artifacts)
    return [registered_as(version) for version in registry.all_versions()]


def registered_as(version: Version) -> Registered:
    """A version by what it needs in the store, or by nothing if it is none of ours."""
    return Registered(
        name=f"{version.name} version {version.version}",
        run=version.tags.get(RUN_TAG, ""),
        manifest=version.tags.get(MANIFEST_TAG, ""),
        adapter=version.tags.get(ADAPTER_TAG, ""),
        judged=version.tags.get(JUDGED_TAG, ""),
    )


def _versions_if_possible(here: Settings) -> tuple[list[Registered], tuple[str, ...]]:
    try:
        return _versions(here), ()
    except CogvxError as error:
        return [], (f"versions are left out: {error}",)


def require_same_home(
    here: Settings, objects: Iterable[str], versions: Iterable[Registered]
) -> None:
    """Refuse an MLflow that knows nothing of this store: it is likely not the one that it is for.

    A new SQLite file is made where none is, so a wrong address would look like an empty registry.
    """
    finished = {folder_of(key) for key in objects if key.endswith("/outcome.json")}
    if finished and not finished & {version.run for version in versions}:
        raise ConfigError(
            f"MLflow at {without_secrets(here.mlflow_uri)} knows none of the {len(finished)} "
            "finished run(s) in the store; set COGVX_TRACKING_URI to the MLflow that they are "
            "registered in, or register one with `cogvx register`"
        )
