"""What of a store is needed, and by whom: a walk from what people keep to the objects behind it.

The walk begins at the newest clips of every dataset, at earlier ones while they are young, at every
run that the store holds, at every registered version, and at work that was planned lately. Whoever
wants something to go takes away what it begins at: a run's folder, a version, the manifests of a
dataset. Or it is said which versions leave: then it begins neither at them, nor at their runs, nor
at runs that nobody goes on with.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from cogvx.errors import IntegrityError
from cogvx.evaluation.index import EvaluationIndex, evaluation_path
from cogvx.housekeeping.documents import (
    StoredRun,
    read_kept,
    read_lists,
    read_plans,
    read_runs,
)
from cogvx.housekeeping.leaving import (
    Forgotten,
    Leaving,
    Registered,
    find_forgotten,
    find_left,
)
from cogvx.housekeeping.names import RECORDS, Kind, folder_of, is_digest, kind_of, name_of
from cogvx.housekeeping.unclear import SHORT, no_evaluation, no_list, no_records, no_spec
from cogvx.store import ObjectInfo, ObjectStore

__all__ = ["Ages", "Leaving", "Reach", "Registered", "Root", "find_reach"]


@dataclass(frozen=True)
class Ages:
    """When it is, in seconds since 1970, and for how many seconds things stay without being needed.

    `keep` is for documents that newer ones superseded and for what is soon measured anew; `grace`
    for everything, since objects are put before the document that reaches them.
    """

    now: float
    keep: float
    grace: float

    def is_young(self, info: ObjectInfo) -> bool:
        """Whether it stays for its age, superseded or quickly measured anew."""
        return self.now - info.modified < self.keep

    def is_fresh(self, info: ObjectInfo) -> bool:
        """Whether a run that is under way may have put it."""
        return self.now - info.modified < self.grace


@dataclass(frozen=True)
class Root:
    """Something that is kept for its own sake: how many objects it needs, how many are there."""

    name: str
    wanted: int
    present: int


@dataclass(frozen=True)
class Reach:
    """What is needed: `owner` says which of the roots is the first to need an object.

    `unclear` are kinds of which nobody can tell whether an object is needed, and why. `forgotten`
    are runs that the walk did not begin at, and `left_by` says whose an object was that needs it no
    more.
    """

    roots: tuple[Root, ...]
    owner: Mapping[str, int]
    unclear: Mapping[Kind, str]
    forgotten: frozenset[str] = frozenset()
    left_by: Mapping[str, str] = field(default_factory=dict)


def find_reach(
    store: ObjectStore,
    objects: Mapping[str, ObjectInfo],
    versions: Sequence[Registered],
    ages: Ages,
    leaving: Leaving | None = None,
) -> Reach:
    """Walk from everything that is kept; reads documents, and no record.

    Args:
        store: Where the documents lie.
        objects: All of the store, by key, listed before the versions and this: what was there when
            it was listed and is reached afterwards is never taken for unneeded.
        versions: Every version in the registry, of this store or not; those that leave as well.
        ages: What counts as young.
        leaving: What may go although the store or the registry holds it; by default nothing.

    Raises:
        IntegrityError: A document cannot be read, so what it needs is not known.
        TransientError: The store did not answer this time.
    """
    walk = _Walk(store, objects, versions, ages)
    if leaving is not None:
        walk.forget(leaving)
    walk.add_clips()
    walk.add_runs()
    walk.add_versions()
    walk.add_plans()
    return Reach(
        tuple(walk.roots),
        walk.owner,
        walk.unclear,
        forgotten=frozenset(walk.forgotten),
        left_by=find_left(store, objects, forgotten=walk.forgotten, owner=walk.owner),
    )


class _Walk:
    """One walk. Of a list's many names only those of objects that exist stay in memory, once."""

    roots: list[Root]
    owner: dict[str, int]
    unclear: dict[Kind, str]
    forgotten: dict[str, Forgotten]

    def __init__(
        self,
        store: ObjectStore,
        objects: Mapping[str, ObjectInfo],
        versions: Sequence[Registered],
        ages: Ages,
    ) -> None:
        self.roots, self.owner, self.unclear, self.forgotten = [], {}, {}, {}
        self._store, self._objects, self._ages = store, objects, ages
        self._versions = list(versions)
        self._keys: dict[Kind, list[str]] = defaultdict(list)
        for key in objects:
            self._keys[kind_of(key)].append(key)
        self._checkpoints: dict[str, set[str]] = defaultdict(set)
        for key in self._keys["resumes"] + self._keys["checkpoints"]:
            self._checkpoints[folder_of(key)].add(key)
        self._manifests: dict[str, list[str]] = {}
        for key in self._keys["manifests"]:
            self._manifests.setdefault(name_of(key), []).append(key)
        self._runs = read_runs(store, objects)
        self._lists = read_lists(store, objects)

    def forget(self, leaving: Leaving) -> None:
        """Begin neither at what leaves nor at what is behind it."""
        newest, _ = self._newest()
        self.forgotten = find_forgotten(
            leaving, self._objects, runs=self._runs, versions=self._versions, newest=newest
        )
        self._runs = {name: run for name, run in self._runs.items() if name not in self.forgotten}
        self._versions = [v for v in self._versions if v.run not in self.forgotten]

    def add_clips(self) -> None:
        """The newest clips of every dataset, and those of before that are still wanted."""
        newest, moving = self._newest()
        told = {found.manifest for found in self._lists}
        for manifest, folder in sorted(newest.items()):
            self._add_manifest(f"newest clips, manifest {manifest[:SHORT]}", manifest)
            if manifest not in told:
                self._block(RECORDS, no_list(folder, manifest))
        here = self._manifests.keys() | told
        for manifest in sorted((self._earlier(moving) & here) - newest.keys()):
            self._add_manifest(f"earlier clips, manifest {manifest[:SHORT]}", manifest)
            for key in self._manifests.get(manifest, ()):
                if manifest not in told and self._ages.is_fresh(self._objects[key]):
                    self._block(RECORDS, no_list(folder_of(key), manifest))

    def add_runs(self) -> None:
        """Every run that the store holds: its records, its adapter, what it was judged on.

        Checkpoints are needed until there is an adapter, however old they are.
        """
        for run in self._runs.values():
            needed: set[str] = set() if run.spec is None else run.spec.reaches()
            if run.outcome is None:
                needed |= self._checkpoints[run.name]
            else:
                needed |= self._adapters(run.outcome.adapter_sha256 or "")
                if run.spec is None:
                    self._block(RECORDS, no_spec(run.name))
            for evaluation in self._kept_evaluations(run):
                index = read_kept(self._store, evaluation, EvaluationIndex)
                needed |= {evaluation} | index.reaches()
            self._add(f"run {run.name[:SHORT]}", needed)

    def add_versions(self) -> None:
        """Every registered version: its adapter and its clips; its run, if that is still here."""
        told = {found.manifest for found in self._lists}
        for version in self._versions:
            run = self._runs.get(version.run)
            needed = self._adapters(version.adapter) | set(
                self._manifests.get(version.manifest, ())
            )
            self._add(version.name, needed)
            is_told = version.manifest in told or (run is not None and run.spec is not None)
            if version.manifest in self._manifests and not is_told:
                self._block(RECORDS, no_records(version.name))
            if run is not None and version.judged:
                place = evaluation_path(version.run, version.judged)
                if place not in self._objects:
                    self._block(("videos", "heldout"), no_evaluation(version.name))

    def add_plans(self) -> None:
        """What was planned lately, as its work may be under way: adapters, and pictures.

        They may lie here since earlier work, and no run or version need be behind them.
        """
        plans = [key for key in self._keys["plans"] if key.startswith("plans/")]
        lately = [key for key in plans if key.endswith(".json") and self._is_kept(key)]
        named = read_plans(self._store, lately)
        needed = {key for key in plans if key.endswith(".png") and name_of(key) in named}
        needed |= {key for key in self._keys["adapters"] if folder_of(key) in named}
        if needed:
            self._add("work that was planned lately", needed)

    def _newest(self) -> tuple[dict[str, str], set[str]]:
        """The newest manifests with their folders, and folders where one just became newest."""
        newest: dict[str, str] = {}
        moving: set[str] = set()
        for key in self._keys["pointers"]:
            if not key.endswith("/latest"):
                continue  # what changed: it is for people, and needs nothing
            name = self._store.read(key).decode(errors="replace")
            if not is_digest(name):
                raise IntegrityError(
                    f"{key} in {self._store.url} names no manifest; cache that dataset again"
                )
            newest[name] = folder_of(key)
            if self._ages.is_fresh(self._objects[key]):
                moving.add(folder_of(key))
        return newest, moving

    def _earlier(self, moving: Container[str]) -> set[str]:
        """Manifests that stay although a newer one is there."""
        young = {
            name_of(key)
            for key in self._keys["manifests"]
            if self._ages.is_young(self._objects[key]) or folder_of(key) in moving
        }
        used = {found.manifest for found in self._lists if self._is_young(found.key)}
        trained = {run.spec.manifest for run in self._runs.values() if run.spec is not None}
        registered = {version.manifest for version in self._versions if version.manifest}
        return young | used | trained | registered

    def _is_young(self, key: str) -> bool:
        return self._ages.is_young(self._objects[key])

    def _is_kept(self, key: str) -> bool:
        """Whether a document stays for its age, superseded or not."""
        return self._is_young(key) or self._ages.is_fresh(self._objects[key])

    def _kept_evaluations(self, run: StoredRun) -> list[str]:
        """The newest one, those that versions were judged by, and those that are young."""
        judged = {
            evaluation_path(run.name, version.judged)
            for version in self._versions
            if version.run == run.name and version.judged
        }
        newest = max(run.evaluations, key=lambda info: info.modified, default=None)
        return [
            info.key
            for info in run.evaluations
            if info is newest or info.key in judged or self._ages.is_young(info)
        ]

    def _adapters(self, sha256: str) -> set[str]:
        return {key for key in self._keys["adapters"] if folder_of(key) == sha256}

    def _add_manifest(self, name: str, manifest: str) -> None:
        """A manifest with the lists of its records, of every recipe that it was cached for."""
        lists = [found for found in self._lists if found.manifest == manifest]
        datasets = sorted({found.dataset for found in lists})
        name = f"{name} of {', '.join(datasets)}" if datasets else name
        needed = set(self._manifests.get(manifest, ()))
        for found in lists:
            needed |= {found.key, *found.present}
        absent = sum(found.wanted - len(found.present) for found in lists)
        self._add(name, needed, absent=absent)

    def _add(self, name: str, needed: AbstractSet[str], *, absent: int = 0) -> None:
        number = len(self.roots)
        present = [key for key in needed if key in self._objects]
        self.roots.append(Root(name, wanted=len(needed) + absent, present=len(present)))
        for key in present:
            self.owner.setdefault(key, number)

    def _block(self, kinds: Iterable[Kind], why: str) -> None:
        for kind in kinds:
            self.unclear.setdefault(kind, why)
