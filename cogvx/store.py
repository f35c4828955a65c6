"""Where objects live: one Protocol, a folder, and a dictionary.

The S3 form is in `tasks.clients.s3`; tests of this library use `MemoryStore`. A dataset is read
through the same Protocol, rooted at the dataset's folder or prefix.
"""

import errno
import math
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from cogvx import files
from cogvx.errors import ConfigError, DataError, IntegrityError, TransientError

_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# What a mount says whose server or disk is away: nobody has to change anything for it to be back.
# A full disk, a closed one or a damaged one waits for a person, and says so by itself.
_AWAY = frozenset(
    {
        errno.EIO,
        errno.ESTALE,
        errno.EREMOTEIO,
        errno.ENODEV,
        errno.ENXIO,
        errno.EAGAIN,
        errno.EBUSY,
        errno.ENOTCONN,
        errno.ESHUTDOWN,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)


@dataclass(frozen=True)
class ObjectInfo:
    """An object without its bytes; `stamp` changes when the bytes may have changed.

    `modified` is when it was last written, in seconds since 1970; where nobody tells, it counts as
    newer than everything, so that whoever removes what is old leaves it alone.
    """

    key: str
    size: int
    stamp: str
    modified: float = math.inf


class Absent(IntegrityError):  # noqa: N818 - a state of the store rather than a fault
    """There is no such object, or a store far away does not show it yet."""


class ObjectStore(Protocol):
    """Whole objects under slash-separated keys; a reader sees an object whole or not at all."""

    @property
    def url(self) -> str:
        """Where this is, without secrets."""
        ...

    def read(self, key: str) -> bytes:
        """All bytes of an object.

        Raises:
            Absent: There is no such object.
            TransientError: The store did not answer this time.
        """
        ...

    def write(self, key: str, data: bytes) -> None:
        """Create or replace an object."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Create an object unless it is there; of several racing writers exactly one gets True."""
        ...

    def info(self, key: str) -> ObjectInfo | None:
        """What is known of an object, or None if there is none."""
        ...

    def entries(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key begins with `prefix`, in the order of their keys."""
        ...

    def fetch(self, key: str, folder: Path) -> Path:
        """A local file with the object's bytes and suffix, made below `folder` if need be."""
        ...

    def upload(self, path: Path, key: str) -> None:
        """Create or replace an object with a file's bytes."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; absent is fine."""
        ...


@runtime_checkable
class CheckedReads(Protocol):
    """A store that can do better than fail when bytes turn out not to be the object.

    The way to a store may alter bytes, and so may a copy of them that is kept on the way.
    """

    def read_checked(self, key: str, check: Callable[[bytes], None]) -> bytes:
        """See `read_checked`; this store needs no checksum of its own then."""
        ...


@runtime_checkable
class KeepsLeftovers(Protocol):
    """A store in which killed writers leave files that are no objects but take room."""

    def leftovers(self) -> Iterator[ObjectInfo]:
        """Those files, under keys that `delete` takes; a writer at work has one as well."""
        ...


def read_checked(store: ObjectStore, key: str, check: Callable[[bytes], None]) -> bytes:
    """All bytes of an object that says itself whether they are its own.

    Args:
        store: Where it lies.
        key: Its name there.
        check: Raises IntegrityError for bytes that are not the object.

    Raises:
        IntegrityError: There is no such object, or it is damaged in the store itself.
        TransientError: The store did not answer this time.
    """
    if isinstance(store, CheckedReads):
        return store.read_checked(key, check)
    data = store.read(key)
    check(data)
    return data


def require_writable(store: ObjectStore) -> None:
    """Write and remove a small object, so that a store that refuses is found before any work.

    Raises:
        ConfigError: The store does not take objects; the message says where and why.
        TransientError: The store did not answer this time.
    """
    key = ".writable"
    try:
        store.write(key, b"")
        store.delete(key)
    except OSError as error:
        raise ConfigError(f"the store {store.url} cannot be written: {error.strerror}") from error


@contextmanager
def reached(store: ObjectStore, key: str) -> Iterator[None]:
    """Turn what the system says of a mount that is away into the error that is tried again.

    Only for reading a file that was fetched: from a folder that is the object itself. Other faults
    of the system pass as they are, and so do those of other stores' copies on this machine's disk.

    Raises:
        TransientError: The mount or the disk did not answer this time.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _AWAY or not isinstance(store, LocalStore):
            raise
        raise TransientError(
            f"{store.url} was not reached for {key}: {error.strerror}; if it stays, mount it again"
        ) from error


def check_key(key: str) -> str:
    """Refuse a key that could leave the root it is looked up under.

    Raises:
        DataError: The key is absolute, empty, or climbs with `..`.
    """
    path = PurePosixPath(key)
    if not key or path.is_absolute() or ".." in path.parts or "\0" in key:
        raise DataError(f"{key!r} leaves the folder it is named in")
    return str(path)


class LocalStore:
    """A folder. Creation is atomic through a hard link, replacement through a rename."""

    def __init__(self, root: Path) -> None:
        """`root` is made on the first write."""
        self.root = root

    @property
    def url(self) -> str:
        """The folder as a file URL."""
        return self.root.resolve().as_uri()

    def read(self, key: str) -> bytes:
        """See `ObjectStore.read`."""
        try:
            with reached(self, key):
                return self._file(key).read_bytes()
        except FileNotFoundError as error:
            raise Absent(f"{key} is not in {self.url}") from error

    def write(self, key: str, data: bytes) -> None:
        """See `ObjectStore.write`."""
        with reached(self, key):
            files.write_bytes(self._path(key), data)

    def create(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.create`."""
        with reached(self, key):
            return files.create_bytes(self._path(key), data)

    def info(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore.info`."""
        path = self._path(key)
        with reached(self, key):
            return _describe(path, check_key(key)) if path.is_file() else None

    def entries(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.entries`. Links to folders are followed, unless they lead back up.

        Links to nothing and pipes are there too: reading says what is wrong.

        Raises:
            DataError: A folder may not be listed.
            TransientError: The folder did not answer this time.
        """
        folder, slash, name = prefix.rpartition("/")
        with reached(self, prefix or "its listing"):
            walk = _walk(str(self.root / folder), folder + slash, name)
            found = sorted(walk, key=lambda info: info.key)
        yield from found

    def leftovers(self) -> Iterator[ObjectInfo]:
        """See `KeepsLeftovers.leftovers`. Links are not followed: what is there is not ours."""
        for folder, _, names in os.walk(self.root):
            for name in names:
                if not name.startswith(files.ASIDE):
                    continue
                path = Path(folder, name)
                key = path.relative_to(self.root).as_posix()
                with suppress(FileNotFoundError), reached(self, key):
                    yield _describe(path, key)

    def fetch(self, key: str, folder: Path) -> Path:  # noqa: ARG002 - other stores need it
        """The file itself: nothing is copied."""
        with reached(self, key):
            return self._file(key)

    def upload(self, path: Path, key: str) -> None:
        """See `ObjectStore.upload`."""
        with reached(self, key):
            files.copy_file(path, self._path(key))

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        with reached(self, key):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _file(self, key: str) -> Path:
        """The file to read; opening a pipe instead would wait for its writer for ever."""
        path = self._path(key)
        try:
            mode = path.stat().st_mode  # asked once: a file may appear between two questions
        except OSError as error:
            if error.errno not in _NOTHING_THERE:
                raise
            if path.is_symlink():
                raise IntegrityError(
                    f"{key} in {self.url} is a link that leads to no file"
                ) from None
            raise Absent(f"{key} is not in {self.url}") from None
        if stat.S_ISREG(mode):
            return path
        if stat.S_ISDIR(mode):
            raise Absent(f"{key} is not in {self.url}")
        raise IntegrityError(f"{key} in {self.url} is no file but a pipe, socket or device")


def _walk(
    folder: str, key: str, name: str = "", *, above: tuple[tuple[int, int], ...] = ()
) -> Iterator[ObjectInfo]:
    """What lies below a folder and is none, keys beginning with `key`; `above` is around it.

    Of what lies in the folder itself only what is called `name...` counts. Strings rather than
    paths: a Path for each of a million files takes minutes. What another process removes meanwhile
    is not there.
    """
    try:
        stat = os.stat(folder)  # noqa: PTH116 - see above
        entries = os.scandir(folder)
    except PermissionError as error:
        raise DataError(f"{folder} may not be listed; change its mode or move it away") from error
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            return
        raise
    here = (stat.st_dev, stat.st_ino)
    if here in above:
        entries.close()
        return
    with entries:
        for entry in entries:
            if not entry.name.startswith(name):
                continue
            if _is_folder(entry):
                yield from _walk(entry.path, f"{key}{entry.name}/", above=(*above, here))
            elif not files.is_aside(Path(entry.name)):
                with suppress(FileNotFoundError):
                    yield _describe(entry, key + entry.name)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno in _AWAY:
            raise
        return False  # a link to itself


def _describe(entry: "os.DirEntry[str] | Path", key: str) -> ObjectInfo:
    try:
        stat = entry.stat()
    except OSError as error:
        if error.errno in _AWAY:
            raise
        stat = os.lstat(entry)  # a link to nothing, or to itself
    return ObjectInfo(key, stat.st_size, str(stat.st_mtime_ns), stat.st_mtime)


class MemoryStore:
    """A dictionary with the manners of a store, for tests and experiments."""

    def __init__(self) -> None:
        """Start empty."""
        self.objects: dict[str, bytes] = {}
        self._stamps: dict[str, tuple[str, float]] = {}
        self._writes = 0

    @property
    def url(self) -> str:
        """A URL that says there is nothing behind it."""
        return "memory://"

    def read(self, key: str) -> bytes:
        """See `ObjectStore.read`."""
        try:
            return self.objects[check_key(key)]
        except KeyError as error:
            raise Absent(f"{key} is not in {self.url}") from error

    def write(self, key: str, data: bytes) -> None:
        """See `ObjectStore.write`."""
        self._writes += 1
        self.objects[check_key(key)] = data
        self._stamps[key] = (str(self._writes), time.time())

    def create(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.create`."""
        if check_key(key) in self.objects:
            return False
        self.write(key, data)
        return True

    def info(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore.info`."""
        data = self.objects.get(check_key(key))
        return None if data is None else ObjectInfo(key, len(data), *self._stamps[key])

    def entries(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.entries`."""
        for key in sorted(self.objects):
            if key.startswith(prefix):
                yield ObjectInfo(key, len(self.objects[key]), *self._stamps[key])

    def fetch(self, key: str, folder: Path) -> Path:
        """See `ObjectStore.fetch`."""
        path = folder / check_key(key)
        files.write_bytes(path, self.read(key))
        return path

    def upload(self, path: Path, key: str) -> None:
        """See `ObjectStore.upload`."""
        self.write(key, path.read_bytes())

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        self.objects.pop(check_key(key), None)
