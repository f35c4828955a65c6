"""Bring records from the store into a folder, each verified, so that training needs no network."""

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath

from cogvx import files
from cogvx.cache.disk import DiskCache
from cogvx.cache.seal import verify
from cogvx.errors import IntegrityError
from cogvx.store import ObjectStore, read_checked

logger = logging.getLogger(__name__)

# Enough to hide the latency of a remote store; each holds one record, 2 to 22 MB at real size.
READERS = 8
_NAMED = 5


class UnusableRecords(IntegrityError):  # noqa: N818 - says what they are
    """Records that the store lacks, or whose bytes are not their own; `paths` has them all."""

    def __init__(self, faults: Mapping[str, str], *, wanted: int, url: str) -> None:
        """`faults` says of each path what is wrong, in the order in which it is shown."""
        self.paths = tuple(faults)
        lines = [f"{len(faults)} of {wanted} records in {url} cannot be used"]
        lines += [f"  - {fault}" for fault in list(faults.values())[:_NAMED]]
        lines += [f"  - and {len(faults) - _NAMED} more"] if len(faults) > _NAMED else []
        super().__init__("\n".join(lines))


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
        UnusableRecords: The store lacks records, or holds damaged ones; all others are in the
            folder. See `drop_damaged`.
        TransientError: The store did not answer this time; what was fetched stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fetched, done, faults = 0, 0, dict[str, str]()
    with ThreadPoolExecutor(max_workers=READERS) as readers:
        pending = {
            readers.submit(_bring, name, key, store, folder / f"{name}.safetensors"): key
            for name, key in names.items()
        }
        try:
            for future in as_completed(pending):
                try:
                    fetched += future.result()
                except IntegrityError as error:
                    key = pending[future]
                    faults[key] = str(error) if key in str(error) else f"{key}: {error}"
                    continue
                done += 1
                on_progress(done, len(pending))
        finally:
            # After a failure the rest would only delay it.
            readers.shutdown(wait=True, cancel_futures=True)
    if faults:
        raise UnusableRecords(dict(sorted(faults.items())), wanted=len(names), url=store.url)
    return fetched


def drop_damaged(store: ObjectStore, paths: Iterable[str]) -> tuple[str, ...]:
    """Delete those records at `paths` that are damaged: absent, they are encoded again.

    Each is read once more, because it may have been mended since, or damaged on its way here.

    Args:
        store: The store itself and no cache before it, which would vouch for its own copies.
        paths: As `UnusableRecords` names them.

    Returns:
        The paths of those that were deleted; a warning names each.

    Raises:
        TransientError: The store did not answer this time.
    """
    dropped = []
    for path in paths:
        if store.info(path) is None:
            continue
        try:
            read_checked(store, path, functools.partial(verify, name=PurePosixPath(path).stem))
        except IntegrityError as error:
            logger.warning("%s is deleted from %s: %s", path, store.url, error)
            store.delete(path)
            dropped.append(path)
    return tuple(dropped)


def _bring(name: str, key: str, store: ObjectStore, path: Path) -> bool:
    """Fetch one record unless it is there and whole; returns whether it was fetched."""
    check = functools.partial(verify, name=name)
    if _is_whole(path, check):
        return False
    if isinstance(store, DiskCache):
        store.place(key, path, check)
    else:
        # Not synced: whoever reads a record verifies it, and a torn one is brought again.
        files.write_bytes(path, read_checked(store, key, check), synced=False)
    return True


def _is_whole(path: Path, check: Callable[[bytes], None]) -> bool:
    if not path.is_file():
        return False
    try:
        check(path.read_bytes())
    except IntegrityError:
        return False
    return True
