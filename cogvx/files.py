"""Files that are either whole or absent: written aside, synced, then renamed."""

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from cogvx.digest import canonical_json
from cogvx.errors import IntegrityError

DocumentT = TypeVar("DocumentT", bound=BaseModel)

ASIDE = ".aside-"
"""How names begin under which files are written before they are renamed."""


def write_bytes(path: Path, data: bytes, *, synced: bool = True) -> None:
    """Put `data` at `path` so that a reader sees the old file or the new one, never a part.

    Unsynced, a machine that loses power may keep a torn file: only for what is verified whenever
    it is read and can be had again. Syncing costs milliseconds a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            if synced:
                os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def create_bytes(path: Path, data: bytes) -> bool:
    """Put `data` at `path` unless something stands there; of racing writers one gets True."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        return True
    finally:
        aside.unlink(missing_ok=True)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file's bytes to `path`, whole or not at all."""
    write_file(path, lambda aside: _copy(source, aside))


def write_document(path: Path, document: object) -> None:
    """Write a document as canonical JSON, whole or not at all."""
    write_bytes(path, canonical_json(document) + b"\n")


def read_document(path: Path, kind: type[DocumentT]) -> DocumentT:
    """Read back a document of this project.

    Raises:
        IntegrityError: The file is not such a document.
    """
    try:
        return kind.model_validate(json.loads(path.read_bytes()))
    except (ValueError, ValidationError) as error:
        raise IntegrityError(f"{path} is not a {kind.__name__}: {error}") from error


def write_file(path: Path, write: Callable[[Path], None], *, synced: bool = True) -> None:
    """Let `write` fill a file under a temporary name with the same suffix, then rename it.

    `synced` as for `write_bytes`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        write(aside)
        if synced:
            _sync(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a folder under a temporary name, sync it, then rename it.

    Raises:
        FileExistsError: Something stands at `path`; a finished folder is never overwritten.
    """
    if path.exists():
        raise FileExistsError(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        aside.mkdir()
        fill(aside)
        for file in sorted(aside.rglob("*")):
            if file.is_file():
                _sync(file)
        aside.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def is_aside(path: Path) -> bool:
    """Whether a name is one that an interrupted writer may have left behind."""
    return path.name.startswith(ASIDE)


def _copy(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)


def _aside(path: Path) -> Path:
    return path.parent / f"{ASIDE}{uuid.uuid4().hex[:12]}-{path.name}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
