"""What a disk refuses while a run is written to it, as an error that says who acts."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from cogvx.errors import CogvxError, ConfigError, TransientError
from cogvx.runs.folder import RunFolder
from cogvx.runs.saved import is_folder_name

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_GIB = 2**30


@contextlib.contextmanager
def explained(folder: RunFolder) -> Iterator[None]:
    """Turn what a disk refuses in the block into an error that a person can act on.

    Other faults of the system pass as they are: nothing is known of them.

    Raises:
        TransientError: A disk is full, a quota used up, or a file larger than allowed.
        ConfigError: The place may not be written, or what is needed not be read.
    """
    try:
        yield
    except OSError as error:
        told = _told(folder, error)
        if told is None:
            raise
        raise told from error


def _told(folder: RunFolder, error: OSError) -> CogvxError | None:
    # writing to a file that is open already gives an error without a name
    subject = f"{error.filename or folder.root}: {error.strerror}"
    newest = _newest(folder)
    on = f"its newest checkpoint, {newest.name}" if newest else "its beginning"
    again = f"and run it again: it goes on from {on}"
    if error.errno in _NO_ROOM:
        limit = ", or allow larger files" if error.errno == errno.EFBIG else ""
        return TransientError(f"{subject}. Make room there{_each(newest)}{limit}, {again}")
    if error.errno in _CLOSED:
        return ConfigError(f"{subject}. Let this user read and write there, {again}")
    return None


def _newest(folder: RunFolder) -> Path | None:
    try:
        found = [path for path in folder.checkpoints.iterdir() if is_folder_name(path.name)]
    except OSError:  # there is none yet, or this too may not be read
        return None
    return max(found, default=None)


def _each(newest: Path | None) -> str:
    """What a checkpoint needs, where there is one to measure."""
    if newest is None:
        return ""
    size = sum(file.stat().st_size for file in newest.iterdir() if file.is_file()) / _GIB
    return (
        f" (a checkpoint takes {max(size, 0.1):.1f} GiB, and one more is there while it is saved)"
    )
