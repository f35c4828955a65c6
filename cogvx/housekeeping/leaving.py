"""Runs that a walk does not begin at, since their versions leave or nobody goes on with them."""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cogvx.evaluation.index import EvaluationIndex
from cogvx.housekeeping.documents import StoredRun, read_kept
from cogvx.housekeeping.names import Kind, folder_of, kind_of
from cogvx.housekeeping.unclear import SHORT
from cogvx.store import ObjectInfo, ObjectStore

OF_A_RUN: tuple[Kind, ...] = ("runs", "resumes", "checkpoints", "evaluations")
"""Kinds that lie in a run's folder."""


@dataclass(frozen=True)
class Registered:
    """A registered version: its name for people, and the digests it was tagged with, or nothing."""

    name: str
    run: str = ""
    manifest: str = ""
    adapter: str = ""
    judged: str = ""


@dataclass(frozen=True)
class Leaving:
    """What a walk does not begin at.

    Attributes:
        versions: By their names for people. One whose clips are the newest of a dataset stays all
            the same: its run may be taken up again at any moment.
        unfinished_before: When an unfinished run was touched last for nobody to go on with it, in
            seconds since 1970.
        begun_with: Runs that others are about to begin with, by recipes that no run has yet.

    A run whose weights another one begins with stays as long as that one.
    """

    versions: Container[str]
    unfinished_before: float
    begun_with: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Forgotten:
    """A run that is not begun at: who left it, in words, and what the store holds of it, if any."""

    words: str
    run: StoredRun | None
    adapter: str = ""


def find_forgotten(
    leaving: Leaving,
    objects: Mapping[str, ObjectInfo],
    *,
    runs: Mapping[str, StoredRun],
    versions: Sequence[Registered],
    newest: Container[str],
) -> dict[str, Forgotten]:
    """The runs to forget, by their names.

    Args:
        leaving: What leaves.
        objects: All of the store, by key.
        runs: Every run that it holds.
        versions: Every version, those that leave among them.
        newest: The newest manifests of all datasets.
    """
    latest: dict[str, float] = defaultdict(float)
    for key, info in objects.items():
        if kind_of(key) in OF_A_RUN:
            latest[folder_of(key)] = max(latest[folder_of(key)], info.modified)
    gone = [
        v for v in versions if v.run and v.name in leaving.versions and v.manifest not in newest
    ]
    registered = {version.run for version in versions}
    unfinished = [run for run in runs.values() if run.outcome is None]
    given_up = {
        run.name
        for run in unfinished
        if latest[run.name] < leaving.unfinished_before and run.name not in registered
    }
    staying = {version.run for version in versions if version not in gone}
    going = given_up | ({version.run for version in gone} - staying)
    # a recipe that names another run begins with its weights again whenever there are new clips
    begun_with = {
        run.spec.fork.run
        for run in runs.values()
        if run.name not in going and run.spec is not None and run.spec.fork is not None
    }
    kept = staying | begun_with | leaving.begun_with
    found = {
        version.run: Forgotten(version.name, runs.get(version.run), version.adapter)
        for version in gone
        if version.run not in kept
    }
    for name in sorted(given_up - kept):
        words = f"run {name[:SHORT]}, which was never finished"
        found[name] = Forgotten(words, runs[name])
    return found


def find_left(
    store: ObjectStore,
    objects: Mapping[str, ObjectInfo],
    *,
    forgotten: Mapping[str, Forgotten],
    owner: Container[str],
) -> dict[str, str]:
    """Who left what nobody needs any more, in words, by key.

    Raises:
        IntegrityError: A list of what an evaluation needed cannot be read.
    """
    places: dict[str, list[str]] = defaultdict(list)
    for key in objects:
        if kind_of(key) in (*OF_A_RUN, "adapters"):
            places[folder_of(key)].append(key)
    return {
        key: each.words
        for name, each in forgotten.items()
        for key in _needed(store, name, each, places)
        if key in objects and key not in owner
    }


def _needed(
    store: ObjectStore, name: str, each: Forgotten, places: Mapping[str, list[str]]
) -> Iterable[str]:
    """All that a run's documents name, and all that lies in its folder."""
    needed = {*places.get(name, ()), *places.get(each.adapter, ())}
    if each.run is None:
        return needed
    if each.run.spec is not None:
        needed |= each.run.spec.reaches()
    if each.run.outcome is not None:
        needed |= {*places.get(each.run.outcome.adapter_sha256 or "", ())}
    for info in each.run.evaluations:
        needed |= read_kept(store, info.key, EvaluationIndex).reaches()
    return needed
