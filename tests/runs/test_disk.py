"""What a disk refuses: in one sentence, with the place and what to do, by whoever can act."""

import errno
import os
from pathlib import Path

import pytest

from cogvx.errors import ConfigError, TransientError
from cogvx.runs.disk import explained
from cogvx.runs.folder import RunFolder
from cogvx.runs.lock import hold
from tests.fixtures.disks import close, fill, small_disk


def refuse(number: int, *place: str) -> None:
    raise OSError(number, os.strerror(number), *place)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_told_with_what_a_checkpoint_takes_and_tried_again(
    number: int, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(TransientError) as refusal, explained(folder):
        refuse(number)
    assert str(refusal.value).startswith(f"{tmp_path}: {os.strerror(number)}. Make room there")
    assert str(refusal.value).endswith("and run it again: it goes on from its beginning")

    newest = folder.checkpoints / "step-00000004"
    newest.mkdir(parents=True)
    with (newest / "lora.safetensors").open("wb") as file:
        file.truncate(3 << 29)  # it takes no room
    with pytest.raises(TransientError) as refusal, explained(folder):
        refuse(number, "/elsewhere/file")
    assert str(refusal.value).startswith(f"/elsewhere/file: {os.strerror(number)}. Make room")
    assert "(a checkpoint takes 1.5 GiB, and one more is there while it is saved)" in str(
        refusal.value
    )
    assert str(refusal.value).endswith("it goes on from its newest checkpoint, step-00000004")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_place_that_may_not_be_written_is_told(number: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Let this user read and write there"):  # noqa: SIM117
        with explained(RunFolder(tmp_path)):
            refuse(number)


def test_what_is_no_fault_of_a_disk_passes_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), explained(RunFolder(tmp_path)):
        refuse(errno.ECONNRESET)


def test_a_lock_on_a_disk_that_may_not_be_written_is_refused_in_words(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", mib=1) as disk:
        close(disk)
        told = rf"{disk}/lock: Read-only file system\. Let this user"
        with pytest.raises(ConfigError, match=told), hold(disk / "lock"):
            pytest.fail("it cannot be held")


def test_a_lock_on_a_full_disk_is_refused_in_words_and_hides_no_error_of_its_block(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", mib=1) as disk:
        filler = fill(disk, but=0)
        with pytest.raises(TransientError, match="No space left on device"), hold(disk / "lock"):
            pytest.fail("it cannot be held")
        filler.unlink()
        with pytest.raises(OSError, match="No space") as refusal, hold(disk / "lock"):
            refuse(errno.ENOSPC)
        assert type(refusal.value) is OSError
