"""Files and folders are whole or absent, also when the writer dies or loses a race."""

import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvx import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")

    def fail(aside: Path) -> None:
        aside.write_bytes(b"half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        files.write_file(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def small_files() -> Iterator[None]:
    """The disk takes a megabyte of a file and then fails, as a full one does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_in_the_middle_leaves_the_old_file(
    tmp_path: Path, small_files: None
) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")
    with pytest.raises(OSError, match="File too large"):
        files.write_bytes(path, bytes(3 << 20))
    with pytest.raises(OSError, match="File too large"):
        files.create_bytes(tmp_path / "b.bin", bytes(3 << 20))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_of_the_old_file_reads_it_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old " * 1000)
    with path.open("rb", buffering=0) as reader:
        assert reader.read(4) == b"old "
        files.write_bytes(path, b"new " * 1000)
        assert reader.read() == b"old " * 999
    assert path.read_bytes() == b"new " * 1000


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    def fail(aside: Path) -> None:
        (aside / "part").write_bytes(b"x")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        files.write_folder(tmp_path / "folder", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_folder_is_never_overwritten(tmp_path: Path) -> None:
    files.write_folder(tmp_path / "folder", lambda aside: (aside / "a").touch())
    with pytest.raises(FileExistsError):
        files.write_folder(tmp_path / "folder", lambda aside: (aside / "b").touch())
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a"]


def test_of_racing_creators_exactly_one_wins(tmp_path: Path) -> None:
    start, wins = threading.Barrier(8), []

    def create(writer: int) -> None:
        start.wait()
        if files.create_bytes(tmp_path / "pointer", bytes([writer]) * 1000):
            wins.append(writer)

    threads = [threading.Thread(target=create, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert (tmp_path / "pointer").read_bytes() == bytes(wins) * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["pointer"]
