"""The documents in a store that say what is needed.

They are read strictly: one that cannot be read may need anything, so nothing is decided without it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cogvx.cache.index import CacheIndex
from cogvx.cache.plan import Sample, record_paths
from cogvx.errors import IntegrityError
from cogvx.housekeeping.names import folder_of, kind_of
from cogvx.runs.folder import TrainOutcome
from cogvx.store import ObjectInfo, ObjectStore

DocumentT = TypeVar("DocumentT", bound=BaseModel)

# Read side by side; a list of 10,000 clips has 4 MB.
_AT_ONCE = 8
_DIGESTS = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


class ForkedFrom(BaseModel):
    """The run whose weights another one begins with."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    run: str


class NeededByRun(BaseModel):
    """What a run needs, read from its run.json.

    The recipe in there is not looked at: one that today's rules refuse needs its records as well.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal[1]
    manifest: str
    train: tuple[Sample, ...]
    heldout: tuple[Sample, ...]
    empty_prompt: str
    fork: ForkedFrom | None = None

    def reaches(self) -> set[str]:
        """Where the records of the run lie."""
        return set(record_paths((*self.train, *self.heldout), self.empty_prompt).values())


def read_kept(store: ObjectStore, key: str, kind: type[DocumentT]) -> DocumentT:
    """Read a document that others depend on.

    Raises:
        IntegrityError: It is absent, or this version cannot read it.
    """
    try:
        return kind.model_validate_json(store.read(key))
    except ValidationError as error:
        raise IntegrityError(
            f"{key} in {store.url} cannot be read as {kind.__name__}, so nobody can tell what it "
            "needs; use the version of cogvx that wrote it, or remove it if nothing needs it"
        ) from error


@dataclass(frozen=True)
class StoredRun:
    """What the store holds of a run; `spec` is None where that was not kept."""

    name: str
    spec: NeededByRun | None
    outcome: TrainOutcome | None
    evaluations: tuple[ObjectInfo, ...]


@dataclass(frozen=True)
class Listed:
    """A list of records: of which clips, how many it names, and those of them that are there."""

    key: str
    manifest: str
    dataset: str
    wanted: int
    present: tuple[str, ...]


def read_runs(store: ObjectStore, objects: Mapping[str, ObjectInfo]) -> dict[str, StoredRun]:
    """Every run of which the listing of a store has a document, by its name.

    Raises:
        IntegrityError: One cannot be read.
    """
    evaluations: dict[str, list[ObjectInfo]] = {}
    for key, info in objects.items():
        if kind_of(key) in ("runs", "evaluations"):
            found = evaluations.setdefault(folder_of(key), [])
            found += [info] if kind_of(key) == "evaluations" else []

    def read_if_there(key: str, kind: type[DocumentT]) -> DocumentT | None:
        return read_kept(store, key, kind) if key in objects else None

    return {
        run: StoredRun(
            run,
            spec=read_if_there(f"runs/{run}/run.json", NeededByRun),
            outcome=read_if_there(f"runs/{run}/outcome.json", TrainOutcome),
            evaluations=tuple(found),
        )
        for run, found in sorted(evaluations.items())
    }


def read_lists(store: ObjectStore, objects: Mapping[str, ObjectInfo]) -> list[Listed]:
    """Every list of records in the listing of a store, without the names of what is not there.

    Raises:
        IntegrityError: One cannot be read.
    """
    keys = [key for key in objects if kind_of(key) == "indexes"]
    return [_listed(key, index, objects) for key, index in read_indexes(store, keys)]


def read_indexes(store: ObjectStore, keys: Iterable[str]) -> Iterator[tuple[str, CacheIndex]]:
    """Lists of records with their places, in the order of `keys`, a few in memory at a time.

    Raises:
        IntegrityError: One cannot be read.
    """
    left = list(keys)
    with ThreadPoolExecutor(_AT_ONCE) as readers:
        while left:
            now, left = left[:_AT_ONCE], left[_AT_ONCE:]
            read = readers.map(lambda key: read_kept(store, key, CacheIndex), now)
            yield from zip(now, read, strict=True)


def read_plans(store: ObjectStore, keys: Iterable[str]) -> frozenset[str]:
    """The digests that these plans of work name, whatever kind of work and wherever in the plan.

    Raises:
        Absent: One went meanwhile.
    """
    with ThreadPoolExecutor(_AT_ONCE) as readers:
        named = readers.map(lambda key: _DIGESTS.findall(store.read(key)), keys)
        return frozenset(digest.decode() for found in named for digest in found)


def _listed(key: str, index: CacheIndex, objects: Mapping[str, ObjectInfo]) -> Listed:
    reached = index.reaches()
    return Listed(
        key=key,
        manifest=index.manifest,
        dataset=index.dataset,
        wanted=len(reached),
        # the listing's own strings, so that a record in thirty lists costs one
        present=tuple(objects[path].key for path in reached if path in objects),
    )
