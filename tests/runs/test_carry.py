"""Checkpoints between folders and a store: whole or refused, killed anywhere, never two truths."""

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cogvx.digest import canonical_json
from cogvx.errors import IntegrityError, TransientError
from cogvx.runs.carry import bring_checkpoint, latest_key, put_checkpoint
from cogvx.runs.folder import RunFolder
from cogvx.runs.origin import Origin
from cogvx.runs.saved import STATE_FILE, Pointer, Progress, folder_name
from cogvx.store import LocalStore, MemoryStore, ObjectStore
from cogvx.training.checkpoint import LORA, OPTIMISER, Checkpoint, Checkpoints

RUN = "5" * 64
PARTS = (LORA, OPTIMISER, "ema")
ORIGIN = Origin(
    settings={}, manifest="", windows=2, heldout=1, base_fingerprint="", code_version="0"
)


def new_folder(root: Path) -> RunFolder:
    root.mkdir()
    return RunFolder(root)


def save(folder: RunFolder, *steps: int, run: str = RUN, keep: int = 9) -> None:
    for step in steps:
        tensors = {part: {"a": torch.full((3,), float(step))} for part in PARTS}
        checkpoint = Checkpoint(Progress(step=step), tensors=tensors, footing={})
        Checkpoints(folder, run=run, origin=ORIGIN, keep=keep).save(checkpoint)


def contents(folder: RunFolder) -> dict[str, dict[str, bytes]]:
    return {
        path.name: {file.name: file.read_bytes() for file in path.iterdir()}
        for path in folder.checkpoints.iterdir()
        if path.is_dir()
    }


def key(step: int, file: str) -> str:
    return f"runs/{RUN}/checkpoints/{folder_name(step)}/{file}"


class Failing(MemoryStore):
    """Goes away before its n-th change."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def write(self, key: str, data: bytes) -> None:
        self._change()
        super().write(key, data)

    def delete(self, key: str) -> None:
        self._change()
        super().delete(key)

    def _change(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise TransientError("the store is away")


@pytest.fixture
def here(tmp_path: Path) -> RunFolder:
    return new_folder(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> RunFolder:
    return new_folder(tmp_path / "there")


@pytest.fixture(params=["folder", "S3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    found: ObjectStore = request.getfixturevalue("s3_store")
    return found


def test_another_machine_gets_the_newest_and_goes_on_from_it(
    here: RunFolder, there: RunFolder, store: ObjectStore
) -> None:
    save(here, 4, 8)
    assert put_checkpoint(here, folder_name(4), store, keep=2)
    assert put_checkpoint(here, folder_name(8), store, keep=2)
    assert bring_checkpoint(store, there, RUN) == 8
    assert contents(there) == {folder_name(8): contents(here)[folder_name(8)]}
    checkpoints = Checkpoints(there, run=RUN, origin=ORIGIN, keep=2)
    checkpoints.tidy()
    found = checkpoints.newest()
    assert found is not None
    assert found.progress.step == 8
    assert torch.equal(found.tensors["ema"]["a"], torch.full((3,), 8.0))
    assert not any(path.name.startswith(".aside") for path in there.root.rglob("*"))


def test_nothing_is_fetched_where_there_is_nothing_or_nothing_newer(
    here: RunFolder, there: RunFolder, store: ObjectStore
) -> None:
    assert bring_checkpoint(store, there, RUN) is None
    save(here, 4)
    put_checkpoint(here, folder_name(4), store, keep=2)
    assert bring_checkpoint(store, here, RUN) is None
    save(there, 8)
    before = contents(there)
    assert bring_checkpoint(store, there, RUN) is None
    assert contents(there) == before


def test_a_folder_with_an_older_one_gets_the_newer_one(here: RunFolder, there: RunFolder) -> None:
    store = MemoryStore()
    save(there, 4)
    save(here, 4, 8)
    put_checkpoint(here, folder_name(8), store, keep=2)
    assert bring_checkpoint(store, there, RUN) == 8
    assert contents(there) == contents(here)


def test_older_ones_leave_the_store_as_they_leave_the_folder(here: RunFolder) -> None:
    store = MemoryStore()
    save(here, 4, 8, 12, 16)
    for step in (4, 8, 12, 16):
        put_checkpoint(here, folder_name(step), store, keep=2)
        store.write(key(step - 2, "lora.safetensors"), b"of an upload that was killed")
    kept = {entry.key.split("/")[3] for entry in store.entries(f"runs/{RUN}/checkpoints/")}
    assert kept == {folder_name(step) for step in (12, 14, 16)}
    pointer = Pointer.model_validate_json(store.read(latest_key(RUN)))
    assert pointer == Pointer(step=16, folder=folder_name(16))


def test_it_is_uploaded_once(here: RunFolder) -> None:
    store = MemoryStore()
    save(here, 4)
    put_checkpoint(here, folder_name(4), store, keep=2)
    stamp = {entry.key: entry.stamp for entry in store.entries(f"runs/{RUN}/checkpoints/")}
    put_checkpoint(here, folder_name(4), store, keep=2)
    assert stamp == {e.key: e.stamp for e in store.entries(f"runs/{RUN}/checkpoints/")}


def test_an_upload_that_ends_anywhere_leaves_the_last_whole_one_and_can_be_repeated(
    here: RunFolder, tmp_path: Path
) -> None:
    save(here, 4, 8, 12)
    changes = 0
    while True:
        changes += 1
        store = Failing(0)
        for step in (4, 8):
            put_checkpoint(here, folder_name(step), store, keep=2)
        store.left = changes
        try:
            put_checkpoint(here, folder_name(12), store, keep=2)
            break
        except TransientError:
            there = new_folder(tmp_path / str(changes))
            assert bring_checkpoint(store, there, RUN) in (8, 12)
        assert put_checkpoint(here, folder_name(12), store, keep=2)
        again = new_folder(tmp_path / f"{changes}-again")
        assert bring_checkpoint(store, again, RUN) == 12
        assert contents(again)[folder_name(12)] == contents(here)[folder_name(12)]
    assert changes > len(PARTS) + 4


def test_a_checkpoint_that_the_trainer_removes_meanwhile_is_whole_in_the_store(
    here: RunFolder, there: RunFolder
) -> None:
    class Slow(MemoryStore):
        def upload(self, path: Path, key: str) -> None:
            save(here, 8, keep=1) if not self.objects else None
            super().upload(path, key)

    store = Slow()
    save(here, 4)
    kept = contents(here)[folder_name(4)]
    assert put_checkpoint(here, folder_name(4), store, keep=2)
    assert list(contents(here)) == [folder_name(8)]
    assert bring_checkpoint(store, there, RUN) == 4
    assert contents(there) == {folder_name(4): kept}


@pytest.mark.parametrize("code", ["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EXDEV"])
def test_a_file_system_without_hard_links_is_copied_from(
    here: RunFolder, there: RunFolder, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    def refuse(source: Path, path: Path) -> None:
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)), source, None, path)

    store = MemoryStore()
    save(here, 4)
    monkeypatch.setattr("cogvx.runs.carry.os.link", refuse)
    assert put_checkpoint(here, folder_name(4), store, keep=2)
    assert bring_checkpoint(store, there, RUN) == 4
    assert contents(there) == contents(here)


def test_a_link_that_fails_otherwise_is_no_reason_to_copy(
    here: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_source: Path, _path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    save(here, 4)
    monkeypatch.setattr("cogvx.runs.carry.os.link", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        put_checkpoint(here, folder_name(4), MemoryStore(), keep=2)


def test_another_checkpoint_of_the_same_step_is_not_whole_until_its_last_file(
    here: RunFolder, there: RunFolder
) -> None:
    """As after a move back: the run was done again from an earlier step."""
    store, left = MemoryStore(), [2]
    save(here, 4)
    put_checkpoint(here, folder_name(4), store, keep=2)
    shutil.rmtree(here.checkpoints)
    tensors = {part: {"a": torch.zeros(3)} for part in PARTS}
    again = Checkpoint(Progress(step=4), tensors=tensors, footing={})
    Checkpoints(here, run=RUN, origin=ORIGIN, keep=2).save(again)

    def given_up() -> bool:
        left[0] -= 1
        return left[0] < 0

    assert not put_checkpoint(here, folder_name(4), store, keep=2, given_up=given_up)
    assert key(4, STATE_FILE) not in store.objects
    with pytest.raises(IntegrityError, match="is gone, though"):
        bring_checkpoint(store, there, RUN)
    assert put_checkpoint(here, folder_name(4), store, keep=2)
    assert bring_checkpoint(store, there, RUN) == 4
    assert contents(there) == contents(here)


def test_one_that_is_gone_before_it_could_be_held_is_left_to_the_next(here: RunFolder) -> None:
    store = MemoryStore()
    save(here, 4, 8)
    (here.checkpoints / folder_name(4) / "lora.safetensors").unlink()
    shutil.rmtree(here.checkpoints / folder_name(8))
    for step in (4, 8):
        assert not put_checkpoint(here, folder_name(step), store, keep=2)
    assert store.objects == {}


def test_an_upload_that_was_given_up_is_not_whole(here: RunFolder, there: RunFolder) -> None:
    store = MemoryStore()
    save(here, 4)
    given_up = lambda: len(store.objects) >= 2  # noqa: E731
    assert not put_checkpoint(here, folder_name(4), store, keep=2, given_up=given_up)
    assert len(store.objects) == 2
    assert bring_checkpoint(store, there, RUN) is None


def alter(store: MemoryStore) -> None:
    data = bytearray(store.objects[key(8, "ema.safetensors")])
    data[-1] ^= 1
    store.objects[key(8, "ema.safetensors")] = bytes(data)


def lose(store: MemoryStore) -> None:
    del store.objects[key(8, "lora.safetensors")]


def tear(store: MemoryStore) -> None:
    store.objects[key(8, "state.json")] = store.objects[key(8, "state.json")][:-9]


def swap(store: MemoryStore) -> None:
    state = store.objects[key(8, "state.json")]
    store.objects[key(8, "state.json")] = state.replace(RUN.encode(), b"6" * 64)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (alter, "ema.safetensors is not what was written"),
        (lose, "lora.safetensors is missing or altered"),
        (tear, "state.json cannot be read"),
        (swap, "state.json is of run 666666666666"),
    ],
)
@pytest.mark.parametrize("older", [True, False])
def test_a_damaged_one_is_refused_and_the_sentence_helps(
    here: RunFolder,
    there: RunFolder,
    damage: Callable[[MemoryStore], None],
    fault: str,
    *,
    older: bool,
) -> None:
    store = MemoryStore()
    save(here, 4, 8)
    for step in (4, 8) if older else (8,):
        put_checkpoint(here, folder_name(step), store, keep=2)
    damage(store)
    follows = "go on from step-00000004" if older else "start again from step 0"
    with pytest.raises(IntegrityError, match=f"is damaged: {fault}.*to {follows}") as raised:
        bring_checkpoint(store, there, RUN)
    assert not there.checkpoints.is_dir() or contents(there) == {}
    # do as it says
    places = re.findall(r"runs/\S+", str(raised.value))
    assert len(places) == 2
    for name in list(store.objects):
        if name.startswith(tuple(places)):
            store.delete(name)
    assert bring_checkpoint(store, there, RUN) == (4 if older else None)


def test_one_that_is_pointed_at_and_gone_is_refused(here: RunFolder, there: RunFolder) -> None:
    store = MemoryStore()
    save(here, 4)
    put_checkpoint(here, folder_name(4), store, keep=2)
    store.write(latest_key(RUN), canonical_json(Pointer(step=8, folder=folder_name(8))))
    with pytest.raises(IntegrityError, match=r"step-00000008/ in memory:// is gone, though"):
        bring_checkpoint(store, there, RUN)
    store.delete(latest_key(RUN))
    assert bring_checkpoint(store, there, RUN) == 4
