"""The documents in a store that say what is needed.

They are read strictly: one that cannot be read may need anything, so nothing is decided without it.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cogvx.cache.index import CacheIndex
from cogvx.cache.plan import Sample, record_paths
from cogvx.errors import IntegrityError
from cogvx.store import ObjectStore

DocumentT = TypeVar("DocumentT", bound=BaseModel)

# Read side by side; a list of 10,000 clips has 4 MB.
_AT_ONCE = 8


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
