"""What files hashed to, remembered on disk, so that 20 GB of weights are read once on a machine.

A file counts as unchanged while its size, its times and its inode are what they were. The memory is
no truth: whatever is wrong with it, files are hashed again.
"""

import logging
import os
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

from cogvx import files
from cogvx.digest import digest, sha256_file
from cogvx.errors import IntegrityError

logger = logging.getLogger(__name__)

# A file written to twice within a tick of the disk's clock shows one time for both; two seconds is
# the coarsest clock in use. So young files are not remembered.
_SETTLED_NS = 2_000_000_000

_Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Hashed(_Document):
    """A file as it was when it was hashed.

    `ctime_ns` tells a change even after someone has set the time of modification back, as copying
    tools do.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha256: _Sha256


class _Memory(_Document):
    """`digest` is of `files`: a damaged hash would give a model another name, unnoticed."""

    schema_version: Literal[1] = 1
    files: dict[str, _Hashed]
    digest: _Sha256


class FileHashes:
    """Hashes files, and remembers what they hashed to.

    Several processes may share a memory; of two that save at once one may lose what it learnt,
    which costs another hashing.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Read the memory at `path`; without one, only this object remembers."""
        self._path = path
        self._known = _read(path)
        self._learnt: dict[str, _Hashed] = {}
        self._is_told = False

    def sha256(self, path: Path) -> str:
        """Hex sha256 of a file, read only if it is not as it was when it was read last."""
        file = path.resolve()
        name = str(file)
        stat = file.stat()
        known = self._learnt.get(name) or self._known.get(name)
        if known is not None and known == _describe(stat, known.sha256):
            return known.sha256
        self._tell(stat)
        began_ns = time.time_ns()
        hashed = _describe(stat, sha256_file(file))
        is_settled = began_ns - max(stat.st_mtime_ns, stat.st_ctime_ns) > _SETTLED_NS
        if is_settled and hashed == _describe(file.stat(), hashed.sha256):
            self._learnt[name] = hashed
        return hashed.sha256

    def save(self) -> None:
        """Add what was learnt to the memory, and drop files that are gone from it."""
        if self._path is None or not self._learnt:
            return
        known = {**_read(self._path), **self._learnt}
        kept = {name: hashed for name, hashed in known.items() if Path(name).is_file()}
        plain = {name: hashed.model_dump() for name, hashed in kept.items()}
        try:
            files.write_document(self._path, _Memory(files=kept, digest=digest(plain)))
        except OSError as error:
            logger.warning("%s cannot be written, files are hashed again: %s", self._path, error)
        self._known, self._learnt = kept, {}

    def _tell(self, stat: os.stat_result) -> None:
        """Say why nothing happens for a while, once."""
        if not self._is_told and stat.st_size > 1 << 30:
            logger.info("reading the base model's files to name them; once, while they stay")
            self._is_told = True


def _describe(stat: os.stat_result, sha256: str) -> _Hashed:
    return _Hashed(
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        ctime_ns=stat.st_ctime_ns,
        inode=stat.st_ino,
        sha256=sha256,
    )


def _read(path: Path | None) -> dict[str, _Hashed]:
    """What is remembered; nothing where the memory is absent, damaged or of another form."""
    if path is None or not path.is_file():
        return {}
    try:
        memory = files.read_document(path, _Memory)
    except (IntegrityError, OSError) as error:
        logger.warning("%s is damaged, files are hashed again: %s", path, error)
        return {}
    plain = {name: hashed.model_dump() for name, hashed in memory.files.items()}
    if digest(plain) != memory.digest:
        logger.warning("%s is damaged, files are hashed again: its digest does not match", path)
        return {}
    return memory.files
