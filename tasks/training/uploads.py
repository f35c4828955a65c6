"""Finished checkpoints into the store while training goes on, on a thread that nobody waits for.

Only the newest matters: one that waits gives way to the next, and never are two on their way. What
fails is said and tried again with the next checkpoint; a store that is away stops no training.
"""

import contextvars
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cogvx.errors import CogvxError
from cogvx.runs.carry import newest_in, put_checkpoint
from cogvx.runs.folder import RunFolder
from cogvx.store import ObjectStore

logger = logging.getLogger(__name__)

# A checkpoint of rank 128 on 5B has 1.6 GB. Prefect kills a cancelled run sooner than this.
LAST_SECONDS = 120.0
_LAST_TRIES = 2


class CheckpointUploads:
    """Uploads of one run. `offer` and `close` are called by one thread, which never waits long."""

    _waiting: str | None
    _stored: str | None
    _thread: threading.Thread | None

    def __init__(self, folder: RunFolder, store: ObjectStore, *, keep: int) -> None:
        """Nothing is uploaded yet; `keep` newest ones stay in the store."""
        self._folder, self._store, self._keep = folder, store, keep
        self._waiting = self._stored = self._thread = None
        self._lock = threading.Lock()
        self._given_up = threading.Event()

    def offer(self, name: str) -> None:
        """Upload the checkpoint in this folder next, in place of an older one that still waits."""
        with self._lock:
            self._waiting = name
            if self._thread is None:
                self._thread = self._start()

    def close(self, seconds: float) -> None:
        """Upload the newest checkpoint if it is not there yet, for at most so many seconds."""
        newest, deadline = newest_in(self._folder), time.monotonic() + seconds
        try:
            for _ in range(_LAST_TRIES):
                if newest is None or self._stored == newest:
                    return
                self.offer(newest)
                if (thread := self._thread) is not None:
                    thread.join(max(0.0, deadline - time.monotonic()))
        finally:
            self._given_up.set()
        if self._stored != newest:
            logger.warning(
                "%s is only on this machine, in %s; start the run again here to go on from it",
                newest,
                self._folder.checkpoints,
            )

    def _start(self) -> threading.Thread:
        # a copy of the context, by which Prefect knows whose log lines these are; a daemon, since a
        # process that is told to end does not wait for a slow store
        thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._work,),
            name="checkpoint-upload",
            daemon=True,
        )
        thread.start()
        return thread

    def _work(self) -> None:
        try:
            while (name := self._next()) is not None:
                if name != self._stored:
                    self._put(name)
        finally:  # also when logging ends the thread, because nobody reads this process any more
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _next(self) -> str | None:
        with self._lock:
            name, self._waiting = self._waiting, None
            if name is None:
                self._thread = None  # under the same lock: an offer from now on starts another
            return name

    def _put(self, name: str) -> None:
        try:
            stored = put_checkpoint(
                self._folder,
                name,
                self._store,
                keep=self._keep,
                given_up=self._given_up.is_set,
            )
        except (CogvxError, OSError) as error:
            logger.warning("%s is not in the store yet: %s", name, error)
            return
        if stored:
            self._stored = name
            logger.info("%s is in the store", name)


@contextmanager
def uploading(folder: RunFolder, store: ObjectStore, *, keep: int) -> Iterator[CheckpointUploads]:
    """Uploads while the block lasts; however it ends, the newest checkpoint follows."""
    uploads = CheckpointUploads(folder, store, keep=keep)
    try:
        yield uploads
    finally:
        uploads.close(LAST_SECONDS)
