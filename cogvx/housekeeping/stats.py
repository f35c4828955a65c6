"""What a store holds, told from its listing and from the lists of records; no record is read."""

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cogvx.cache.index import CacheIndex
from cogvx.cache.keys import record_path
from cogvx.housekeeping.names import KINDS, RECORDS, Kind, kind_of
from cogvx.housekeeping.reach import Reach
from cogvx.store import ObjectInfo

UNLISTED = "in no list of records"
_SHORT = 12


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KindFacts(_Document):
    """Objects of one kind; times are in seconds since 1970."""

    kind: Kind
    objects: int
    bytes: int
    oldest: float
    newest: float


class RootFacts(_Document):
    """Something that is kept, how many objects it needs, and how many of them are there."""

    name: str
    wanted: int
    present: int


class Wanted(_Document):
    """Records of one kind that a recipe needs, and how many of them are there."""

    kind: Kind
    wanted: int
    present: int


class DiskCache(_Document):
    """Copies that this machine keeps of a store elsewhere; they take at most `limit` bytes."""

    folder: str
    objects: int
    bytes: int
    limit: int


class StoreStats(_Document):
    """A store in numbers. `made` counts latents by what made them; `notes` are for people."""

    schema_version: Literal[1] = 1
    store: str
    kinds: tuple[KindFacts, ...]
    made: dict[str, int]
    roots: tuple[RootFacts, ...]
    unneeded_objects: int
    unneeded_bytes: int
    recipe: tuple[Wanted, ...] = ()
    disk: DiskCache | None = None
    notes: tuple[str, ...] = ()


def count_kinds(objects: Iterable[ObjectInfo]) -> tuple[KindFacts, ...]:
    """How many objects of each kind there are, how large and from when."""
    kinds: dict[Kind, list[ObjectInfo]] = {}
    for info in objects:
        kinds.setdefault(kind_of(info.key), []).append(info)
    return tuple(
        KindFacts(
            kind=kind,
            objects=len(kinds[kind]),
            bytes=sum(info.size for info in kinds[kind]),
            oldest=min(info.modified for info in kinds[kind]),
            newest=max(info.modified for info in kinds[kind]),
        )
        for kind in KINDS
        if kind in kinds
    )


def count_made(objects: Mapping[str, ObjectInfo], indexes: Iterable[CacheIndex]) -> dict[str, int]:
    """Latents that are there, by size, precision and VAE, as far as lists of records tell."""
    made: dict[str, str] = {}
    for index in indexes:
        for sample in (*index.train, *index.heldout):
            path = record_path("latents", sample.latents)
            if path in objects:
                made[path] = f"{sample.size} in {index.dtype} by VAE {index.vae[:_SHORT]}"
    counts: dict[str, int] = {}
    for key in objects:
        if kind_of(key) == "latents":
            label = made.get(key, UNLISTED)
            counts[label] = counts.get(label, 0) + 1
    return dict(sorted(counts.items()))


def count_wanted(objects: Mapping[str, ObjectInfo], wanted: Iterable[str]) -> tuple[Wanted, ...]:
    """Of the records at these places, how many are there."""
    places = set(wanted)
    by_kind = {kind: [place for place in places if kind_of(place) == kind] for kind in RECORDS}
    return tuple(
        Wanted(kind=kind, wanted=len(here), present=sum(place in objects for place in here))
        for kind, here in by_kind.items()
        if here
    )


def count_unneeded(objects: Iterable[ObjectInfo], reach: Reach) -> tuple[int, int]:
    """Records, videos, losses and adapters that nothing needs, leftovers, and all their bytes."""
    kinds = (*RECORDS, "videos", "heldout", "adapters", "leftovers")
    sizes = [
        info.size for info in objects if info.key not in reach.owner and kind_of(info.key) in kinds
    ]
    return len(sizes), sum(sizes)
