"""Checkpoints: whole or refused, pruned last, never quietly passed over."""

import dataclasses
import errno
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cogvx import files
from cogvx.errors import IntegrityError
from cogvx.files import read_document, write_document
from cogvx.runs.events import EventWriter, history
from cogvx.runs.folder import RunFolder
from cogvx.runs.origin import Origin
from cogvx.runs.tally import Tally
from cogvx.training.checkpoint import (
    LORA,
    OPTIMISER,
    STATE_FILE,
    Checkpoint,
    Checkpoints,
    CheckpointState,
    Pointer,
    Progress,
    tensor_file,
)

LORA_FILE, OPTIMISER_FILE = tensor_file(LORA), tensor_file(OPTIMISER)


def checkpoint(step: int) -> Checkpoint:
    tensor = torch.full((2, 3), float(step))
    return Checkpoint(
        progress=Progress(step=step, tally=Tally(norms=0.1, norm_count=2), heldout_before=1.5),
        tensors={LORA: {"a": tensor}, OPTIMISER: {"a/step": torch.tensor(float(step))}},
        footing={"torch": "1"},
    )


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


ORIGIN = Origin(
    settings={"train": {"seed": 1}},
    manifest="m",
    windows=4,
    heldout=2,
    base_fingerprint="b",
    code_version="1",
)


@pytest.fixture
def checkpoints(folder: RunFolder) -> Checkpoints:
    return Checkpoints(folder, run="this", origin=ORIGIN, keep=2)


def names(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir())


def tree(folder: RunFolder) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}


def test_a_new_run_has_none(checkpoints: Checkpoints) -> None:
    checkpoints.tidy()
    assert checkpoints.newest() is None


def test_what_was_saved_comes_back(checkpoints: Checkpoints) -> None:
    saved = checkpoint(3)
    checkpoints.save(saved)
    found = checkpoints.newest()
    assert found is not None
    assert found.progress == saved.progress
    assert found.tensors.keys() == {LORA, OPTIMISER}
    assert torch.equal(found.tensors[LORA]["a"], saved.tensors[LORA]["a"])
    assert torch.equal(found.tensors[OPTIMISER]["a/step"], saved.tensors[OPTIMISER]["a/step"])


def test_it_keeps_whatever_tensors_a_run_needs_and_verifies_them_too(
    checkpoints: Checkpoints, folder: RunFolder
) -> None:
    plain = checkpoint(3)
    mean = {"a": torch.full((2, 3), 0.5)}
    checkpoints.save(dataclasses.replace(plain, tensors={**plain.tensors, "ema": mean}))
    found = checkpoints.newest()
    assert found is not None
    assert found.tensors.keys() == {LORA, OPTIMISER, "ema"}
    assert torch.equal(found.tensors["ema"]["a"], mean["a"])
    (folder.checkpoints / "step-00000003" / "ema.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"damaged: ema\.safetensors is missing"):
        checkpoints.newest()


@pytest.mark.parametrize(
    ("named", "fault"),
    [
        (["optimiser.safetensors"], r"state\.json names no lora\.safetensors"),
        (["lora.safetensors"], r"state\.json names no optimiser\.safetensors"),
        (["../lora.safetensors"], r"state\.json cannot be read"),
    ],
)
def test_a_state_that_names_too_little_or_reaches_outside_is_refused(
    named: list[str], fault: str, checkpoints: Checkpoints, folder: RunFolder
) -> None:
    checkpoints.save(checkpoint(3))
    path = folder.checkpoints / "step-00000003" / STATE_FILE
    state = read_document(path, CheckpointState)
    sha256 = {name: state.sha256[Path(name).name] for name in named}
    write_document(path, state.model_copy(update={"sha256": sha256}))
    with pytest.raises(IntegrityError, match=fault):
        checkpoints.newest()


def test_the_newest_two_stay_and_the_pointer_names_the_last(
    checkpoints: Checkpoints, folder: RunFolder
) -> None:
    for step in (2, 4, 6):
        checkpoints.save(checkpoint(step))
    assert names(folder) == ["latest.json", "step-00000004", "step-00000006"]
    assert read_document(folder.latest, Pointer) == Pointer(step=6, folder="step-00000006")


@pytest.mark.parametrize("file", [LORA_FILE, OPTIMISER_FILE, STATE_FILE])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_one_is_refused_with_what_to_do_though_an_older_one_is_whole(
    harm: str, file: str, checkpoints: Checkpoints, folder: RunFolder
) -> None:
    for step in (2, 4):
        checkpoints.save(checkpoint(step))
    path = folder.checkpoints / "step-00000004" / file
    data = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-3] if harm == "truncate" else data[:-2] + b"!" + data[-1:])
    with pytest.raises(IntegrityError) as refusal:
        checkpoints.newest()
    sentence = str(refusal.value)
    assert "step-00000004 is damaged" in sentence
    assert file in sentence
    assert sentence.endswith("latest.json to go on from step-00000002")

    shutil.rmtree(path.parent)  # as the sentence says
    folder.latest.unlink()
    checkpoints.tidy()
    found = checkpoints.newest()
    assert found is not None
    assert found.progress.step == 2


def test_one_that_vanished_is_not_quietly_replaced(
    checkpoints: Checkpoints, folder: RunFolder
) -> None:
    checkpoints.save(checkpoint(4))
    shutil.rmtree(folder.checkpoints / "step-00000004")
    checkpoints.tidy()
    with pytest.raises(IntegrityError, match=r"is gone, though .* to start again from step 0"):
        checkpoints.newest()


def test_a_save_that_fails_leaves_the_old_ones_and_the_pointer(
    checkpoints: Checkpoints, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (2, 4):
        checkpoints.save(checkpoint(step))
    before = tree(folder)

    def fail(path: Path, _fill: Callable[[Path], None]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_folder", fail)
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(checkpoint(6))
    assert tree(folder) == before
    checkpoints.save(checkpoint(6))
    assert names(folder) == ["latest.json", "step-00000004", "step-00000006"]


@pytest.mark.parametrize("file", [LORA_FILE, OPTIMISER_FILE, STATE_FILE])
def test_a_disk_that_gives_back_other_bytes_is_noticed_before_anything_is_given_up(
    file: str, checkpoints: Checkpoints, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (2, 4):
        checkpoints.save(checkpoint(step))
    before = tree(folder)
    write_folder = files.write_folder

    def and_corrupt(path: Path, fill: Callable[[Path], None]) -> None:
        write_folder(path, fill)
        data = (path / file).read_bytes()
        (path / file).write_bytes(data[:-2] + b"!" + data[-1:])

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_folder", and_corrupt)
        with pytest.raises(IntegrityError, match=rf"step-00000006 is damaged: {file}"):
            checkpoints.save(checkpoint(6))
    after = tree(folder)
    assert {path: after.get(path) for path in before} == before


def test_a_pointer_that_cannot_be_moved_costs_no_old_checkpoint(
    checkpoints: Checkpoints, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (2, 4):
        checkpoints.save(checkpoint(step))
    before = tree(folder)
    write_document = files.write_document

    def fail_at_the_pointer(path: Path, document: object) -> None:
        if path == folder.latest:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_document(path, document)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_document", fail_at_the_pointer)
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(checkpoint(6))
    after = tree(folder)
    assert {path: after.get(path) for path in before} == before


def test_a_run_whose_checkpoints_are_all_gone_does_not_begin_anew_unasked(
    checkpoints: Checkpoints, folder: RunFolder
) -> None:
    writer = EventWriter(folder.events)
    writer.write("phase", name="training")
    assert checkpoints.newest() is None
    for step in (2, 4):
        writer.write("checkpoint", step=step, folder=checkpoints.save(checkpoint(step)))
    shutil.rmtree(folder.checkpoints)
    checkpoints.tidy()
    with pytest.raises(IntegrityError) as refusal:
        checkpoints.newest()
    sentence = str(refusal.value)
    assert f"{folder.checkpoints / 'step-00000004'} is gone, though" in sentence
    assert sentence.endswith(f"remove {folder.events} to start again from step 0")
    folder.events.unlink()  # as the sentence says
    assert checkpoints.newest() is None


@pytest.mark.parametrize("harm", ["damage", "remove"])
def test_whoever_removes_what_the_last_sentence_names_starts_again(
    harm: str, checkpoints: Checkpoints, folder: RunFolder
) -> None:
    name = checkpoints.save(checkpoint(2))
    EventWriter(folder.events).write("checkpoint", step=2, folder=name)
    (folder.checkpoints / name / LORA_FILE).write_bytes(b"torn")
    if harm == "remove":
        shutil.rmtree(folder.checkpoints / name)
    with pytest.raises(IntegrityError) as refusal:
        checkpoints.newest()
    wanted = f"emove (it and )?{folder.latest} and {folder.events} to start again from step 0$"
    assert re.search(wanted, str(refusal.value))
    shutil.rmtree(folder.checkpoints / name, ignore_errors=True)
    folder.latest.unlink()
    folder.events.unlink()
    checkpoints.tidy()
    assert checkpoints.newest() is None


TORN = [b"", b"{", b"garbage \xff", b'{"step": 2}']


@pytest.mark.parametrize("data", TORN)
def test_a_pointer_that_cannot_be_read_is_written_again_from_what_is_there(
    data: bytes, checkpoints: Checkpoints, folder: RunFolder
) -> None:
    for step in (2, 4):
        checkpoints.save(checkpoint(step))
    folder.latest.write_bytes(data)
    checkpoints.tidy()
    assert read_document(folder.latest, Pointer) == Pointer(step=4, folder="step-00000004")
    (warning,) = history(folder.events)
    assert warning["kind"] == "warning"
    assert warning["text"] == (
        f"{folder.latest} could not be read and was written again; it names step-00000004"
    )
    found = checkpoints.newest()
    assert found is not None
    assert found.progress.step == 4
    checkpoints.tidy()
    assert len(history(folder.events)) == 1


def test_a_pointer_that_cannot_be_read_hides_no_checkpoint_that_is_gone(
    checkpoints: Checkpoints, folder: RunFolder
) -> None:
    writer = EventWriter(folder.events)
    for step in (2, 4):
        writer.write("checkpoint", step=step, folder=checkpoints.save(checkpoint(step)))
    shutil.rmtree(folder.checkpoints / "step-00000004")
    folder.latest.write_bytes(b"{")
    for _ in range(2):
        checkpoints.tidy()
        with pytest.raises(IntegrityError, match=r"step-00000004 is gone, though .* names it"):
            checkpoints.newest()
    folder.latest.unlink()  # as the sentence says
    checkpoints.tidy()
    found = checkpoints.newest()
    assert found is not None
    assert found.progress.step == 2


def test_a_pointer_that_cannot_be_read_and_names_nothing_goes(
    checkpoints: Checkpoints, folder: RunFolder
) -> None:
    folder.checkpoints.mkdir()
    folder.latest.write_bytes(b"{")
    checkpoints.tidy()
    assert not folder.latest.exists()
    assert checkpoints.newest() is None
    assert "could not be read and was removed" in history(folder.events)[0]["text"]


def test_a_kill_between_rename_and_pointer_loses_nothing_and_leaves_nothing(
    checkpoints: Checkpoints, folder: RunFolder
) -> None:
    checkpoints.save(checkpoint(2))
    pointer = folder.latest.read_bytes()
    checkpoints.save(checkpoint(4))
    folder.latest.write_bytes(pointer)
    (folder.checkpoints / ".aside-0123-step-00000006").mkdir()
    checkpoints.tidy()
    assert names(folder) == ["latest.json", "step-00000002", "step-00000004"]
    assert read_document(folder.latest, Pointer).step == 4
    found = checkpoints.newest()
    assert found is not None
    assert found.progress.step == 4
