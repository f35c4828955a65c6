"""Bring records from the store into a folder, each verified, so that training needs no network."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from cogvx import files
from cogvx.cache.records import unpack
from cogvx.errors import IntegrityError
from cogvx.store import ObjectStore

# Enough to hide the latency of a remote store; each holds one record, 2 to 22 MB at real size.
_READERS = 8


def materialise(
    names: Mapping[str, str],
    store: ObjectStore,
    folder: Path,
    *,
    on_progress: Callable[[int, int], None],
) -> int:
    """Make `folder` hold `<name>.safetensors` for every name; what is there and whole stays.

    Args:
        names: Where each record lies in the store, by the record's name.
        store: Where the records come from.
        folder: Made if need be; may be half filled by an interrupted run, or damaged.
        on_progress: Called with how many records are ready, and of how many.

    Returns:
        How many records were fetched.

    Raises:
        IntegrityError: The store lacks a record, or holds a damaged one.
        TransientError: The store did not answer this time; what was fetched stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=_READERS) as readers:
        pending = [
            readers.submit(_bring, name, key, store, folder / f"{name}.safetensors")
            for name, key in names.items()
        ]
        fetched = 0
        try:
            for done, future in enumerate(as_completed(pending), start=1):
                fetched += future.result()
                on_progress(done, len(pending))
        finally:
            # After a failure the rest would only delay it.
            readers.shutdown(wait=True, cancel_futures=True)
    return fetched


def _bring(name: str, key: str, store: ObjectStore, path: Path) -> bool:
    """Fetch one record unless it is there and whole; returns whether it was fetched."""
    if path.is_file() and _is_whole(path.read_bytes(), name):
        return False
    data = store.read(key)
    try:
        unpack(data, name)
    except IntegrityError as error:
        raise IntegrityError(
            f"{key} in {store.url} is damaged ({error}); delete it there, and it is encoded again"
        ) from error
    files.write_bytes(path, data)
    return True


def _is_whole(data: bytes, name: str) -> bool:
    try:
        unpack(data, name)
    except IntegrityError:
        return False
    return True
