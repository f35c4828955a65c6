import os
import time
from pathlib import Path

import pytest

from cogvx.data.scratch import scratch_folder


def age(path: Path, hours: float) -> None:
    """Let a file, or a folder with all that is in it, have been written so long ago."""
    then = time.time() - hours * 3600
    for one in (*path.rglob("*"), path):
        os.utime(one, (then, then))


def folder_with_a_clip(path: Path, hours: float) -> Path:
    (path / "0123").mkdir(parents=True)
    (path / "0123" / "a.mp4").write_bytes(b"clip")
    age(path, hours)
    return path


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    stale = folder_with_a_clip(tmp_path / "encode-abc123_x", hours=25)
    young = folder_with_a_clip(tmp_path / "encode-abc123_y", hours=23)
    others = folder_with_a_clip(tmp_path / "probe-abc123_x", hours=25)
    with scratch_folder(tmp_path, "encode") as folder:
        assert folder.parent == tmp_path
        assert not stale.exists()
    assert sorted(tmp_path.iterdir()) == [young, others]


def test_a_folder_that_is_still_written_to_stays(tmp_path: Path) -> None:
    alive = folder_with_a_clip(tmp_path / "encode-abc123_x", hours=100)
    (alive / "0123" / "a.mp4").write_bytes(b"more of the clip")
    age_of_the_folder = alive.stat().st_mtime
    with scratch_folder(tmp_path, "encode"):
        assert alive.stat().st_mtime == age_of_the_folder < time.time() - 99 * 3600


@pytest.mark.parametrize("name", ["encode-holidays-2020", "encode", "encode-ABC12345"])
def test_a_persons_own_folder_is_left_alone(tmp_path: Path, name: str) -> None:
    folder_with_a_clip(tmp_path / name, hours=1000)
    with scratch_folder(tmp_path, "encode"):
        pass
    assert (tmp_path / name / "0123" / "a.mp4").exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = folder_with_a_clip(tmp_path / "elsewhere", hours=100)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "encode-abc123_x").symlink_to(elsewhere)
    with scratch_folder(tmp_path / "work", "encode"):
        pass
    assert (elsewhere / "0123" / "a.mp4").exists()


def test_nothing_stays_when_the_work_fails(tmp_path: Path) -> None:
    def fail_in(folder: Path) -> None:
        (folder / "a.mp4").write_bytes(b"clip")
        raise KeyError

    with pytest.raises(KeyError), scratch_folder(tmp_path / "new", "probe") as folder:
        fail_in(folder)
    assert list((tmp_path / "new").iterdir()) == []
