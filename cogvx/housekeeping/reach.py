"""What of a store is needed, and by whom: a walk from what people keep to the objects behind it.

The walk begins at the newest clips of every dataset, at earlier ones while they are young, at every
run that the store holds, and at every registered version. Whoever wants something to go takes away
what it begins at: a run's folder, a version, a dataset's manifests.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from cogvx.cache.index import CacheIndex
from cogvx.errors import IntegrityError
from cogvx.evaluation.index import EvaluationIndex, evaluation_path
from cogvx.housekeeping.documents import DocumentT, NeededByRun, read_indexes, read_kept
from cogvx.housekeeping.names import RECORDS, Kind, folder_of, is_digest, kind_of, name_of
from cogvx.store import ObjectInfo, ObjectStore
from cogvx.training.run import TrainOutcome

_SHORT = 12


@dataclass(frozen=True)
class Ages:
    """When it is, in seconds since 1970, and for how many seconds things stay without being needed.

    `keep` is for documents that newer ones superseded; `grace` for everything, since objects are
    put before the document that reaches them.
    """

    now: float
    keep: float
    grace: float

    def is_young(self, info: ObjectInfo) -> bool:
        """Whether a superseded document stays for its age."""
        return self.now - info.modified < self.keep

    def is_fresh(self, info: ObjectInfo) -> bool:
        """Whether a run that is under way may have put it."""
        return self.now - info.modified < self.grace


@dataclass(frozen=True)
class Registered:
    """A registered version: its name for people, and the digests it was tagged with, or nothing."""

    name: str
    run: str = ""
    manifest: str = ""
    adapter: str = ""
    judged: str = ""


@dataclass(frozen=True)
class Root:
    """Something that is kept for its own sake: how many objects it needs, how many are there."""

    name: str
    wanted: int
    present: int


@dataclass(frozen=True)
class Reach:
    """What is needed: `owner` says which of the roots is the first to need an object.

    `unclear` are kinds of which nobody can tell whether an object is needed, and why.
    """

    roots: tuple[Root, ...]
    owner: Mapping[str, int]
    unclear: Mapping[Kind, str]


def find_reach(
    store: ObjectStore,
    objects: Mapping[str, ObjectInfo],
    versions: Sequence[Registered],
    ages: Ages,
) -> Reach:
    """Walk from everything that is kept; reads documents, and no record.

    Args:
        store: Where the documents lie.
        objects: All of the store, by key, listed before the versions and this: what was there when
            it was listed and is reached afterwards is never taken for unneeded.
        versions: Every version in the registry, of this store or not.
        ages: What counts as young.

    Raises:
        IntegrityError: A document cannot be read, so what it needs is not known.
        TransientError: The store did not answer this time.
    """
    walk = _Walk(store, objects, versions, ages)
    walk.add_clips()
    walk.add_runs()
    walk.add_versions()
    return Reach(tuple(walk.roots), walk.owner, walk.unclear)


@dataclass(frozen=True)
class _Run:
    """What the store holds of a run; `spec` is None where that was not kept."""

    name: str
    spec: NeededByRun | None
    outcome: TrainOutcome | None
    evaluations: tuple[ObjectInfo, ...]


@dataclass(frozen=True)
class _Listed:
    """A list of records: of which clips, how many it names, and those of them that are there."""

    key: str
    manifest: str
    dataset: str
    wanted: int
    present: tuple[str, ...]


class _Walk:
    """One walk. Of a list's many names only those of objects that exist stay in memory, once."""

    roots: list[Root]
    owner: dict[str, int]
    unclear: dict[Kind, str]

    def __init__(
        self,
        store: ObjectStore,
        objects: Mapping[str, ObjectInfo],
        versions: Sequence[Registered],
        ages: Ages,
    ) -> None:
        self.roots, self.owner, self.unclear = [], {}, {}
        self._store, self._objects, self._versions, self._ages = store, objects, versions, ages
        self._keys: dict[Kind, list[str]] = defaultdict(list)
        for key in objects:
            self._keys[kind_of(key)].append(key)
        self._manifests: dict[str, list[str]] = defaultdict(list)
        for key in self._keys["manifests"]:
            self._manifests[name_of(key)].append(key)
        self._runs = self._read_runs()
        self._lists = [self._listed(*found) for found in self._read_lists()]

    def add_clips(self) -> None:
        """The newest clips of every dataset, and those of before that are still wanted."""
        newest, moving = self._newest()
        told = {found.manifest for found in self._lists}
        for manifest in sorted(newest):
            self._add_manifest(f"newest clips, manifest {manifest[:_SHORT]}", manifest)
            if manifest not in told:
                self._block(RECORDS, _no_list(self._manifests[manifest], manifest))
        here = self._manifests.keys() | told
        for manifest in sorted((self._earlier(moving) & here) - newest):
            self._add_manifest(f"earlier clips, manifest {manifest[:_SHORT]}", manifest)
            infos = [self._objects[key] for key in self._manifests[manifest]]
            if manifest not in told and any(map(self._ages.is_fresh, infos)):
                self._block(RECORDS, _no_list(self._manifests[manifest], manifest))

    def add_runs(self) -> None:
        """Every run that the store holds: its records, its adapter, what it was judged on."""
        for run in self._runs.values():
            needed: set[str] = set() if run.spec is None else run.spec.reaches()
            if run.outcome is not None:
                needed |= self._adapters(run.outcome.adapter_sha256 or "")
                if run.spec is None:
                    self._block(RECORDS, _no_spec(run.name))
            for evaluation in self._kept_evaluations(run):
                index = read_kept(self._store, evaluation, EvaluationIndex)
                needed |= {evaluation, *index.videos, *index.heldout}
            self._add(f"run {run.name[:_SHORT]}", needed)

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
                self._block(RECORDS, _no_records(version.name))
            if run is not None and version.judged:
                place = evaluation_path(version.run, version.judged)
                if place not in self._objects:
                    self._block(("videos", "heldout"), _no_evaluation(version.name))

    def _read_runs(self) -> dict[str, _Run]:
        evaluations: dict[str, list[ObjectInfo]] = defaultdict(list)
        for key in self._keys["evaluations"]:
            evaluations[folder_of(key)].append(self._objects[key])
        names = {folder_of(key) for key in self._keys["runs"]} | evaluations.keys()
        return {
            name: _Run(
                name,
                spec=self._read_if_there(f"runs/{name}/run.json", NeededByRun),
                outcome=self._read_if_there(f"runs/{name}/outcome.json", TrainOutcome),
                evaluations=tuple(evaluations[name]),
            )
            for name in sorted(names)
        }

    def _read_if_there(self, key: str, kind: type[DocumentT]) -> DocumentT | None:
        return read_kept(self._store, key, kind) if key in self._objects else None

    def _read_lists(self) -> Iterator[tuple[str, CacheIndex]]:
        return read_indexes(self._store, self._keys["indexes"])

    def _listed(self, key: str, index: CacheIndex) -> _Listed:
        reached = index.reaches()
        return _Listed(
            key=key,
            manifest=index.manifest,
            dataset=index.dataset,
            wanted=len(reached),
            # the listing's own strings, so that a record in thirty lists costs one
            present=tuple(self._objects[path].key for path in reached if path in self._objects),
        )

    def _newest(self) -> tuple[set[str], set[str]]:
        """Digests of the datasets' newest manifests, and folders where one just became newest."""
        newest, moving = set(), set()
        for key in self._keys["pointers"]:
            name = self._store.read(key).decode(errors="replace")
            if not is_digest(name):
                raise IntegrityError(
                    f"{key} in {self._store.url} names no manifest; cache that dataset again"
                )
            newest.add(name)
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

    def _kept_evaluations(self, run: _Run) -> list[str]:
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


def _no_list(places: Sequence[str], manifest: str) -> str:
    where = folder_of(places[0]) if places else "?"
    return (
        f"manifest {manifest[:_SHORT]} has no list of its records yet: run `cogvx cache` with its "
        f"recipe, or remove manifests/{where}/ if nobody wants it"
    )


def _no_spec(run: str) -> str:
    return (
        f"run {run[:_SHORT]} ended before runs were kept with their records: remove runs/{run}/ if "
        "nobody needs its records"
    )


def _no_records(version: str) -> str:
    return (
        f"the records of {version} are in no list: run `cogvx cache` with its recipe, or remove "
        "its manifest if nobody needs them"
    )


def _no_evaluation(version: str) -> str:
    return (
        f"{version} was judged before evaluations were listed: run `cogvx evaluate` with its "
        "recipe, or delete the version"
    )
