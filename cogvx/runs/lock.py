"""A lock on a run: one file, held by one process, let go by the kernel when that process ends."""

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cogvx.errors import TransientError


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

    Source: flock(2).
    """
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise Held(_refusal(path, file.read())) from error
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {platform.node()} since {_now()}")
        file.flush()
        yield


def _refusal(path: Path, holder: str) -> str:
    who = f" ({holder})" if holder else ""  # it may have the lock and not yet have signed
    return (
        f"another process{who} is training this run; wait until it has ended, or stop it, and try "
        f"again. The run: {path.parent}"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
