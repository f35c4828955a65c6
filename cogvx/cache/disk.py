"""Copies of a remote store's objects on this machine's disk, as many as fit in a limit.

Only objects that never change are kept: records and videos, named by what they were made from. A
copy is verified whenever it is used; a damaged one is dropped and the object fetched again. Several
processes may share a folder: files appear and vanish whole, and whoever finds one gone fetches.
"""

import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from cogvx import files
from cogvx.errors import IntegrityError
from cogvx.store import ObjectInfo, ObjectStore, check_key, read_checked

logger = logging.getLogger(__name__)

KEPT = ("records/", "videos/")
# Room is made in steps, because finding the least recently used means listing the folder.
_STEPS = 20
# A writer aside is done long before; older files were left by a process that was killed.
_ASIDE_SECONDS = 3600.0
_SUM = ".crc32"

Check = Callable[[bytes], None]


class DiskCache:
    """A store in front of another one; what is read through it stays on this disk for a while.

    Writing, listing and asking go straight to the store behind.
    """

    def __init__(self, store: ObjectStore, folder: Path, *, limit_bytes: int) -> None:
        """`folder` is made on the first read; alone, a process keeps it within the limit."""
        self._store = store
        self._folder = folder
        self._limit = limit_bytes
        self._room = 0
        self._under_way = 0
        self._making_room = threading.Lock()
        self._has_failed = False

    @property
    def url(self) -> str:
        """The URL of the store behind."""
        return self._store.url

    def read(self, key: str) -> bytes:
        """See `ObjectStore.read`."""
        if not key.startswith(KEPT):
            return self._store.read(key)
        path = self._path(key)
        data = self._copy(path, lambda data: _compare(data, path))
        if data is None:
            data = self._store.read(key)
            self._keep(_sum_of(path), _checksum(data))
            self._keep(path, data)
        return data

    def read_checked(self, key: str, check: Check) -> bytes:
        """See `cogvx.store.read_checked`."""
        data = self._copy(self._path(key), check)
        if data is None:
            data = read_checked(self._store, key, check)
            self._keep(self._path(key), data)
        return data

    def place(self, key: str, path: Path, check: Check) -> None:
        """Put an object's verified bytes at `path`, as another name of the copy if possible.

        So a record in a run folder takes no room of its own while the copy is there.
        """
        data = self.read_checked(key, check)
        if not _link(self._path(key), path):
            files.write_bytes(path, data, synced=False)

    def write(self, key: str, data: bytes) -> None:
        """See `ObjectStore.write`."""
        self._store.write(key, data)
        self._drop(key)

    def create(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.create`."""
        return self._store.create(key, data)

    def info(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore.info`."""
        return self._store.info(key)

    def entries(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.entries`."""
        return self._store.entries(prefix)

    def fetch(self, key: str, folder: Path) -> Path:
        """See `ObjectStore.fetch`."""
        if not key.startswith(KEPT):
            return self._store.fetch(key, folder)
        data = self.read(key)
        path = folder / check_key(key)
        if not _link(self._path(key), path):
            files.write_bytes(path, data, synced=False)
        return path

    def upload(self, path: Path, key: str) -> None:
        """See `ObjectStore.upload`."""
        self._store.upload(path, key)
        self._drop(key)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        self._store.delete(key)
        self._drop(key)

    def _path(self, key: str) -> Path:
        return self._folder / check_key(key)

    def _drop(self, key: str) -> None:
        _remove(self._path(key))

    def _copy(self, path: Path, check: Check) -> bytes | None:
        """The bytes of a copy that passes its check, which thereby is the most recently used."""
        try:
            data = path.read_bytes()
            check(data)
            os.utime(path)
        except FileNotFoundError:
            return None
        except (IntegrityError, OSError) as error:
            logger.warning("the copy %s is damaged and fetched again: %s", path, error)
            with suppress(OSError):
                path.unlink()
            return None
        return data

    def _keep(self, path: Path, data: bytes) -> None:
        """Keep a copy if it fits; without it the next reader fetches, so no failure is raised."""
        if len(data) > self._limit // _STEPS:
            return
        try:
            self._make_room(len(data))
            try:
                files.write_bytes(path, data, synced=False)
            finally:
                with self._making_room:
                    self._under_way -= len(data)
        except OSError as error:
            if not self._has_failed:
                logger.warning("copies cannot be kept in %s: %s", self._folder, error)
            self._has_failed = True

    def _make_room(self, size: int) -> None:
        """Account for a file that is about to be written, after removing others if need be."""
        with self._making_room:
            if size > self._room:
                step = self._limit // _STEPS
                _trim(self._folder, self._limit - step - self._under_way)
                self._room = step
            self._room -= size
            self._under_way += size


def _trim(folder: Path, most_bytes: int) -> None:
    """Remove the least recently used copies until the rest is at most as large as that."""
    found = []
    for path in folder.rglob("*"):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue  # another process trims as well
        if files.is_aside(path):
            if time.time() - stat.st_mtime > _ASIDE_SECONDS:
                path.unlink(missing_ok=True)
        elif path.is_file() and path.suffix != _SUM:
            found.append((stat.st_mtime_ns, stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most_bytes:
            return
        _remove(path)
        total -= size


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    _sum_of(path).unlink(missing_ok=True)


def _link(copy: Path, path: Path) -> bool:
    """Give a copy another name; False where there is no copy or the disk cannot."""
    try:
        files.write_file(path, lambda aside: os.link(copy, aside), synced=False)
    except OSError:
        return False
    return True


def _sum_of(path: Path) -> Path:
    """Where the checksum of a copy lies that has none inside."""
    return path.with_name(path.name + _SUM)


def _compare(data: bytes, path: Path) -> None:
    if _sum_of(path).read_bytes() != _checksum(data):
        raise IntegrityError("its checksum does not match")


def _checksum(data: bytes) -> bytes:
    return b"%08x" % zlib.crc32(data)
