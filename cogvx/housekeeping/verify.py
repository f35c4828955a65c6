"""Read records and find those whose bytes are not what their names promise."""

import functools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cogvx.cache.seal import verify
from cogvx.errors import IntegrityError
from cogvx.housekeeping.names import name_of
from cogvx.store import ObjectStore, read_checked

logger = logging.getLogger(__name__)

# Each holds one record, 2 to 22 MB at real size; hashing them keeps as many cores busy.
_READERS = 8


@dataclass(frozen=True)
class Damaged:
    """A record that must not be used: where it lies and what is wrong with it."""

    key: str
    why: str


def find_damaged(
    store: ObjectStore, keys: Sequence[str], *, on_progress: Callable[[int, int], None]
) -> tuple[Damaged, ...]:
    """Read every record at `keys` and verify it.

    Args:
        store: The store itself: a cache in front of it would vouch for its own copies.
        keys: Places of records.
        on_progress: Called with how many were read, and of how many.

    Raises:
        TransientError: The store did not answer this time.
    """
    found: list[Damaged] = []
    with ThreadPoolExecutor(_READERS) as readers:
        try:
            for done, why in enumerate(readers.map(lambda key: _fault(store, key), keys), start=1):
                if why is not None:
                    found.append(Damaged(keys[done - 1], why))
                    logger.warning("%s is damaged: %s", keys[done - 1], why)
                on_progress(done, len(keys))
        finally:
            readers.shutdown(cancel_futures=True)
    return tuple(found)


def _fault(store: ObjectStore, key: str) -> str | None:
    """What is wrong with a record; nothing is wrong with one that was removed meanwhile."""
    try:
        read_checked(store, key, functools.partial(verify, name=name_of(key)))
    except IntegrityError as error:
        return None if store.info(key) is None else str(error)
    return None
