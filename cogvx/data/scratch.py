"""Folders for clips on their way, and the tidying up after processes that were killed."""

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A folder is written to whenever a clip comes or goes, and no clip takes a day.
_STALE_SECONDS = 24 * 3600


@contextmanager
def scratch_folder(work: Path, name: str) -> Iterator[Path]:
    """A new folder of this name and a random ending below `work`, removed at the end.

    Folders of the same name in which nothing was written for a day are removed first: a process
    that was killed could not. The user's own folders do not have such endings.
    """
    work.mkdir(parents=True, exist_ok=True)
    ours = re.compile(rf"{re.escape(name)}-[a-z0-9_]{{8}}")
    for folder in work.iterdir():
        if ours.fullmatch(folder.name) and folder.is_dir() and _is_stale(folder):
            shutil.rmtree(folder, ignore_errors=True)  # another process may be at it too
    with tempfile.TemporaryDirectory(dir=work, prefix=f"{name}-") as folder_name:
        yield Path(folder_name)


def _is_stale(folder: Path) -> bool:
    """What vanishes meanwhile belongs to somebody who is alive."""
    try:
        newest = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:
        return False
    return newest < time.time() - _STALE_SECONDS
