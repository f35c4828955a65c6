"""Checkpoints between a run folder and a store, so that a run can go on on another machine.

runs/<run>/checkpoints/step-00000200/   as in the run folder; state.json is written last
runs/<run>/latest.json                  Pointer to the newest, written after that

What holds in a run folder holds here: a checkpoint is whole when its state.json is there, the
newest one is taken or none, and for a damaged one the error says what to remove. The trainer knows
nothing of this; whoever launched it carries.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from cogvx import files
from cogvx.digest import canonical_json, sha256_file
from cogvx.errors import IntegrityError
from cogvx.runs.folder import RunFolder
from cogvx.runs.saved import STATE_FILE, CheckpointState, Pointer, is_folder_name, step_of
from cogvx.store import ObjectStore

# What file systems say that have no hard links, or none between these two places.
_WITHOUT_LINKS = frozenset(
    (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)
)


def latest_key(run: str) -> str:
    """Where the pointer to a run's newest checkpoint lies in the store."""
    return f"runs/{run}/latest.json"


def checkpoint_prefix(run: str, name: str = "") -> str:
    """What the keys of a run's checkpoints begin with, or those of the one in folder `name`."""
    return f"runs/{run}/checkpoints/" + (f"{name}/" if name else "")


def newest_in(folder: RunFolder) -> str | None:
    """The name of the newest checkpoint in a run folder."""
    found = folder.checkpoints.glob("step-*") if folder.checkpoints.is_dir() else ()
    return max((path.name for path in found if is_folder_name(path.name)), default=None)


def put_checkpoint(
    folder: RunFolder,
    name: str,
    store: ObjectStore,
    *,
    keep: int,
    given_up: Callable[[], bool] = lambda: False,
) -> bool:
    """Put a finished checkpoint into the store, point at it, and remove there what is too old.

    Run twice, it uploads once. The trainer may remove the checkpoint meanwhile: its files are held
    by links of their own.

    Args:
        folder: The run's.
        name: The checkpoint's folder below `checkpoints`.
        store: Nobody else puts checkpoints of this run there.
        keep: So many of the newest stay in the store.
        given_up: Asked before each file; when true, the rest is left.

    Returns:
        Whether it is in the store: not when it was gone before it could be held, or was given up.

    Raises:
        IntegrityError: Its state.json cannot be read.
        TransientError: The store did not answer this time.
    """
    with _held(folder, name) as held:
        if held is None:
            return False
        state = files.read_document(held / STATE_FILE, CheckpointState)
        prefix = checkpoint_prefix(state.run, name)
        if not _is_stored(store, prefix, held):
            # without its state.json it is not whole, whatever of an earlier one still lies there
            store.delete(prefix + STATE_FILE)
            for file in sorted(state.sha256):
                if given_up():
                    return False
                store.upload(held / file, prefix + file)
            store.upload(held / STATE_FILE, prefix + STATE_FILE)
    pointer = Pointer(step=step_of(name), folder=name)
    store.write(latest_key(state.run), canonical_json(pointer))
    _remove_older(store, state.run, name, keep)
    return True


def bring_checkpoint(store: ObjectStore, folder: RunFolder, run: str) -> int | None:
    """Fetch a run's newest checkpoint, unless the folder has it or a newer one.

    Returns:
        The step of what was fetched; None when nothing was.

    Raises:
        IntegrityError: It is damaged or gone; the message says what to remove to go on without it.
        TransientError: The store did not answer this time.
    """
    whole = _whole(store, run)
    name = _pointed_at(store, run) or max(whole, default=None)
    if name is None or name <= (newest_in(folder) or ""):
        return None
    if name not in whole:
        raise IntegrityError(
            f"{checkpoint_prefix(run, name)} in {store.url} is gone, though {latest_key(run)} "
            f"names it; put it back, or remove {latest_key(run)}{_without(name, whole, folder)}"
        )
    faults: list[str] = []

    def fill(aside: Path) -> None:
        faults.extend(_fetch(store, run, name, aside))
        if faults:
            raise IntegrityError(
                f"checkpoint {checkpoint_prefix(run, name)} in {store.url} is damaged: "
                f"{'; '.join(faults)}. Remove it and {latest_key(run)}"
                f"{_without(name, whole, folder)}"
            )

    files.write_folder(folder.checkpoints / name, fill)
    return step_of(name)


@contextmanager
def _held(folder: RunFolder, name: str) -> Iterator[Path | None]:
    """A folder with the checkpoint's files that nobody else removes; None if it is gone."""
    source = folder.checkpoints / name
    with TemporaryDirectory(dir=folder.root, prefix=files.ASIDE) as aside:
        held = Path(aside)
        try:
            _link(source / STATE_FILE, held / STATE_FILE)
            state = files.read_document(held / STATE_FILE, CheckpointState)
            for file in state.sha256:
                _link(source / file, held / file)
        except FileNotFoundError:
            yield None
            return
        yield held


def _link(source: Path, path: Path) -> None:
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno not in _WITHOUT_LINKS:
            raise
        shutil.copyfile(source, path)


def _is_stored(store: ObjectStore, prefix: str, held: Path) -> bool:
    key = prefix + STATE_FILE
    return store.info(key) is not None and store.read(key) == (held / STATE_FILE).read_bytes()


def _remove_older(store: ObjectStore, run: str, newest: str, keep: int) -> None:
    """Remove what is older than the checkpoints that stay, whole or not; newer ones are let be."""
    whole = sorted(name for name in _whole(store, run) if name <= newest)
    stay = set(whole[-keep:])
    old = [
        entry.key
        for entry in store.entries(checkpoint_prefix(run))
        if (name := _folder_of(entry.key)) < newest and name not in stay
    ]
    # a checkpoint stops being whole before it loses anything
    for key in sorted(old, key=lambda key: not key.endswith(f"/{STATE_FILE}")):
        store.delete(key)


def _fetch(store: ObjectStore, run: str, name: str, aside: Path) -> list[str]:
    """Bring the files of a checkpoint into a folder; what is wrong with them."""
    prefix = checkpoint_prefix(run, name)
    try:
        data = store.read(prefix + STATE_FILE)
        state = CheckpointState.model_validate_json(data)
    except (IntegrityError, ValidationError):
        return [f"{STATE_FILE} cannot be read"]
    if state.run != run:
        return [f"{STATE_FILE} is of run {state.run[:12]}"]
    (aside / STATE_FILE).write_bytes(data)
    faults = []
    with TemporaryDirectory(dir=aside.parent, prefix=files.ASIDE) as scratch:
        for file, wanted in state.sha256.items():
            try:
                shutil.copyfile(store.fetch(prefix + file, Path(scratch)), aside / file)
            except IntegrityError:
                faults.append(f"{file} is missing or altered")
                continue
            if sha256_file(aside / file) != wanted:
                faults.append(f"{file} is not what was written")
    return faults


def _whole(store: ObjectStore, run: str) -> set[str]:
    return {
        _folder_of(entry.key)
        for entry in store.entries(checkpoint_prefix(run))
        if entry.key.endswith(f"/{STATE_FILE}") and is_folder_name(_folder_of(entry.key))
    }


def _folder_of(key: str) -> str:
    return key.split("/")[3]


def _pointed_at(store: ObjectStore, run: str) -> str | None:
    key = latest_key(run)
    if store.info(key) is None:
        return None
    try:
        return Pointer.model_validate_json(store.read(key)).folder
    except ValidationError as error:
        raise IntegrityError(
            f"{key} in {store.url} cannot be read; remove it to go on from the newest checkpoint"
        ) from error


def _without(name: str, whole: set[str], folder: RunFolder) -> str:
    """What follows when a checkpoint is removed from the store."""
    left = max([*(whole - {name}), newest_in(folder) or ""])
    return f" there to {f'go on from {left}' if left else 'start again from step 0'}"
