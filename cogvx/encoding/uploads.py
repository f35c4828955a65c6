"""Put records into a store from a few threads; every result is awaited."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from cogvx.errors import CogvxError, ConfigError
from cogvx.store import ObjectStore

# A store far away answers in a tenth of a second, and captions come by the hundred a second.
_THREADS = 8
# Bounds memory: each holds what was encoded of one clip or caption, 2 to 50 MB at real size.
_ON_THEIR_WAY = 16

Record = tuple[str, Callable[[], bytes]]
"""A record's place in the store, and what makes its bytes: checksums are computed on the thread."""


class Uploads:
    """Hands records over to the threads. Used by one thread only, which also hears of the results.

    `failed` tells whether the store was the one to fail.
    """

    failed: bool
    _on_their_way: list[Future[None]]

    def __init__(
        self, pool: ThreadPoolExecutor, store: ObjectStore, on_stored: Callable[[], None]
    ) -> None:
        """See `uploading`."""
        self.failed = False
        self._on_their_way = []
        self._pool = pool
        self._store = store
        self._on_stored = on_stored

    def put(self, name: str, records: Sequence[Record]) -> None:
        """Store the records of one clip or caption, soon; waits while too many are on their way.

        Raises:
            CogvxError: What befell this or an earlier upload, with the name it was put under.
        """
        self.collect(_ON_THEIR_WAY - 1)
        self._on_their_way.append(self._pool.submit(self._create, name, records))

    def collect(self, at_most: int = _ON_THEIR_WAY) -> None:
        """Hear of what is done, and wait until at most so many are on their way.

        Raises:
            CogvxError: See `put`.
        """
        while True:
            done = [upload for upload in self._on_their_way if upload.done()]
            for upload in done:
                self._on_their_way.remove(upload)
                self.failed = self.failed or upload.exception() is not None
                upload.result()
                self._on_stored()
            if len(self._on_their_way) <= at_most:
                return
            wait(self._on_their_way, return_when=FIRST_COMPLETED)

    def _create(self, name: str, records: Sequence[Record]) -> None:
        try:
            for path, pack in records:
                self._store.create(path, pack())
        except CogvxError as error:
            raise type(error)(f"{name}: {error}") from error
        except OSError as error:
            raise ConfigError(
                f"{name}: the store {self._store.url} cannot be written: {error.strerror}"
            ) from error


@contextmanager
def uploading(store: ObjectStore, on_stored: Callable[[], None]) -> Iterator[Uploads]:
    """Uploads that are all awaited at the end of the block.

    When the block fails, what was handed over before is still stored; when the store fails, or
    somebody interrupts, only what is being sent at the moment is finished.

    Args:
        store: Where records go; one that is there already stays as it is.
        on_stored: Called for every `put` whose records are stored, on the thread of the block.

    Raises:
        CogvxError: See `Uploads.put`.
    """
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="upload") as pool:
        uploads = Uploads(pool, store, on_stored)
        try:
            yield uploads
            uploads.collect(0)
        except CogvxError:
            pool.shutdown(wait=not uploads.failed, cancel_futures=uploads.failed)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
