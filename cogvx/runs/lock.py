"""A lock on a run: one file, held by one process, let go by the kernel when that process ends."""

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cogvx.errors import TransientError
from cogvx.runs.disk import explained
from cogvx.runs.folder import RunFolder


class Held(TransientError):  # noqa: N818 - a state of the run rather than a fault
    """Another process has the run; what it does is none of ours."""


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Keep every other process out until the block ends, however it ends.

    Nobody waits for a lock, since a run may take days. The file stays: were it removed, one process
    could lock the old file and another a new one of the same name.

    Args:
        path: In the run folder; made if need be. It names its last holder, for the message.

    Raises:
        Held: Somebody has it, in this process or another, on this host or on one that
            shares the folder.
        CogvxError: The file cannot be written, see `disk.explained`; not for what the block writes.

    Source: flock(2).
    """
    folder = RunFolder(path.parent)
    with explained(folder):
        file = path.open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise Held(_refusal(path, file.read())) from error
        with explained(folder):
            # not through `file`, which would try once more when it is closed
            path.write_text(f"pid {os.getpid()} on {platform.node()} since {_now()}")
        yield


def _refusal(path: Path, holder: str) -> str:
    who = f" ({holder})" if holder else ""  # it may have the lock and not yet have signed
    return (
        f"another process{who} is training this run; wait until it has ended, or stop it, and try "
        f"again. The run: {path.parent}"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
