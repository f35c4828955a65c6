"""Which objects of a store may go, why the others stay, and removing those that may.

Documents go before what they point at, so a prune that is killed leaves objects that nothing needs,
which the next one takes, and never a pointer to something absent.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cogvx.errors import TransientError
from cogvx.housekeeping.names import Kind, folder_of, kind_of
from cogvx.housekeeping.reach import Ages, Reach
from cogvx.store import ObjectInfo, ObjectStore

# Kinds that may go, in this order; all others stay, whatever they are. Of runs only forgotten ones.
_ORDER: tuple[Kind, ...] = (
    "runs",
    "evaluations",
    "indexes",
    "plans",
    "manifests",
    "resumes",
    "checkpoints",
    "videos",
    "heldout",
    "drift",
    "scores",
    "features",
    "proofs",
    "adapters",
    "images",
    "latents",
    "prompts",
    "leftovers",
)
# What newer documents supersede; it stays while it is young, as it tells what happened.
_SUPERSEDED: tuple[Kind, ...] = ("evaluations", "indexes", "plans", "manifests")
# What is measured on files anew where it is missing. No document names it, as the name is made from
# the bytes of a file that is not there yet when the document is written.
_MEASURED: tuple[Kind, ...] = ("drift", "scores", "features", "proofs")
# Where what is needed may have changed since the store was listed.
_WATCHED = ("indexes/", "manifests/", "plans/", "runs/")
_DECISIONS = ("registry/",)
# ... but not by these, which a run that trains writes all the time.
_UNWATCHED: tuple[Kind, ...] = ("resumes", "checkpoints")
_REMOVERS = 16
# After so many objects it is asked again whether anything became needed meanwhile.
_BATCH = 500


@dataclass(frozen=True)
class Tally:
    """A number of objects and their bytes."""

    objects: int = 0
    bytes: int = 0

    def plus(self, info: ObjectInfo) -> "Tally":
        """With one object more."""
        return Tally(self.objects + 1, self.bytes + info.size)


@dataclass(frozen=True)
class Sorted:
    """A store in two parts: what may go, in the order of going, and why the rest stays.

    `why` says of each object that may go, by its key, who needs it no more.
    """

    removable: tuple[ObjectInfo, ...]
    stays: Mapping[str, Tally]
    why: Mapping[str, str]

    def by_kind(self) -> dict[Kind, Tally]:
        """What may go, counted."""
        tallies: dict[Kind, Tally] = {}
        for info in self.removable:
            kind = kind_of(info.key)
            tallies[kind] = tallies.get(kind, Tally()).plus(info)
        return tallies


def sort_out(objects: Iterable[ObjectInfo], reach: Reach, ages: Ages) -> Sorted:
    """Decide for every object whether it stays. Nothing is asked of the store."""
    removable: list[ObjectInfo] = []
    stays: dict[str, Tally] = {}
    for info in objects:
        why = _why_it_stays(info, reach, ages)
        if why is None:
            removable.append(info)
        else:
            stays[why] = stays.get(why, Tally()).plus(info)
    removable.sort(key=lambda info: (_ORDER.index(kind_of(info.key)), info.key))
    whys = {info.key: _why_it_goes(info, reach) for info in removable}
    return Sorted(tuple(removable), stays, whys)


def remove(
    store: ObjectStore,
    removable: Sequence[ObjectInfo],
    objects: Mapping[str, ObjectInfo],
    *,
    on_progress: Callable[[int, int], None],
    decisions: bool = False,
) -> None:
    """Remove what `sort_out` found, in its order, unless something became needed since.

    Args:
        store: The store that was sorted out.
        removable: As `sort_out` ordered it.
        objects: The listing that it was made from.
        on_progress: Called with how many are gone, and of how many.
        decisions: Whether a decision about aliases may have something become needed.

    Raises:
        TransientError: A document that says what is needed is new or has changed; sort out again.
            Or the store did not answer this time.
    """
    done = 0
    with ThreadPoolExecutor(_REMOVERS) as removers:
        for batch in _batches(removable):
            _require_unchanged(store, objects, done, decisions=decisions)
            list(removers.map(store.delete, [info.key for info in batch]))
            done += len(batch)
            on_progress(done, len(removable))


def _why_it_stays(info: ObjectInfo, reach: Reach, ages: Ages) -> str | None:
    kind = kind_of(info.key)
    if kind == "other":
        return "not made by cogvx, as far as their names tell"
    if info.key in reach.owner:
        return reach.roots[reach.owner[info.key]].name
    if kind not in _ORDER or (kind == "runs" and folder_of(info.key) not in reach.forgotten):
        return "datasets, runs, machines and decisions, and what was generated, always kept"
    is_left = info.key in reach.left_by
    return reach.unclear.get(kind) or _why_for_now(info, kind, ages, is_left=is_left)


def _why_it_goes(info: ObjectInfo, reach: Reach) -> str:
    kind = kind_of(info.key)
    if info.key in reach.left_by:
        return f"only {reach.left_by[info.key]} needed it"
    if kind in _SUPERSEDED:
        return "newer documents superseded it"
    if kind in _MEASURED:
        return "it is measured anew where it is needed"
    if kind == "leftovers":
        return "a writer that was killed left it"
    return "nothing that is kept needs it"


def _why_for_now(info: ObjectInfo, kind: Kind, ages: Ages, *, is_left: bool) -> str | None:
    """Why an object that nothing needs stays for a while; what a run left goes with the run."""
    if ages.is_fresh(info):
        return f"younger than {_days(ages.grace)}, so a run may be about to use them"
    if is_left:
        return None
    if kind in _SUPERSEDED and ages.is_young(info):
        return f"superseded documents, younger than {_days(ages.keep)}"
    if kind in _MEASURED and ages.is_young(info):
        return f"what was measured on videos, younger than {_days(ages.keep)}"
    return None


def _batches(removable: Sequence[ObjectInfo]) -> Iterable[Sequence[ObjectInfo]]:
    """Parts of one kind each, so that one is gone before the next is touched."""
    start = 0
    for number, info in enumerate(removable):
        is_other = kind_of(info.key) != kind_of(removable[start].key)
        if is_other or number - start == _BATCH:
            yield removable[start:number]
            start = number
    if removable:
        yield removable[start:]


def _require_unchanged(
    store: ObjectStore, objects: Mapping[str, ObjectInfo], done: int, *, decisions: bool
) -> None:
    """What vanished meanwhile needs less than before; what came or was written may need more."""
    for folder in (*_WATCHED, *(_DECISIONS if decisions else ())):
        for now in store.entries(folder):
            then = objects.get(now.key)
            if kind_of(now.key) in _UNWATCHED or "/hands/" in now.key:
                continue
            if then is None or _as_written(then) != _as_written(now):
                raise TransientError(
                    f"{now.key} in {store.url} was written while this prune was under way, so what "
                    f"is needed may have changed; {done} objects were removed; prune again"
                )


def _as_written(info: ObjectInfo) -> tuple[str, float]:
    """Differs once an object was written again, be it in the same bytes.

    A run that is taken up again writes what it wrote before, and stamps of S3 tell of bytes alone.
    """
    return info.stamp, info.modified


def _days(seconds: float) -> str:
    days = seconds / 86_400
    return f"{days:g} day" + ("" if days == 1 else "s")
