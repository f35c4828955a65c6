"""The disk cache: a store like the one behind it, asked once, that never vouches for damage."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cogvx.cache.disk import DiskCache
from cogvx.errors import IntegrityError
from cogvx.files import is_aside
from cogvx.store import MemoryStore
from tests.services.store_contract import StoreContract

DATA = bytes(range(256)) * 40
KEY = "records/latents/ab/one.safetensors"
VIDEO = "videos/ab/one.mp4"


class CountingStore(MemoryStore):
    """Counts reads; `spoil` changes what readers get, as a bad way to the store would."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.spoil: Callable[[bytes], bytes] = bytes

    def read(self, key: str) -> bytes:
        self.reads.append(key)
        return self.spoil(super().read(key))


class TestDiskCache(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> DiskCache:
        return DiskCache(MemoryStore(), tmp_path / "disk", limit_bytes=1 << 20)


@pytest.fixture
def behind() -> CountingStore:
    store = CountingStore()
    store.write(KEY, DATA)
    store.write(VIDEO, DATA)
    store.write("runs/latest.json", DATA)
    return store


@pytest.fixture
def cache(behind: CountingStore, tmp_path: Path) -> DiskCache:
    return DiskCache(behind, tmp_path / "disk", limit_bytes=1 << 20)


def is_data(data: bytes) -> None:
    if data != DATA:
        raise IntegrityError("not the data")


def test_what_never_changes_is_fetched_once(
    cache: DiskCache, behind: CountingStore, tmp_path: Path
) -> None:
    for _ in range(3):
        assert cache.read(KEY) == DATA
        assert cache.fetch(VIDEO, tmp_path / "work").read_bytes() == DATA
        assert cache.read_checked(KEY, is_data) == DATA
    assert behind.reads == [KEY, VIDEO]
    # Another process, or the next run.
    again = DiskCache(behind, tmp_path / "disk", limit_bytes=1 << 20)
    assert again.read(KEY) == DATA
    assert behind.reads == [KEY, VIDEO]


def test_what_may_change_is_asked_for_each_time(
    cache: DiskCache, behind: CountingStore, tmp_path: Path
) -> None:
    assert cache.read("runs/latest.json") == DATA
    behind.write("runs/latest.json", b"new")
    assert cache.read("runs/latest.json") == b"new"
    assert cache.fetch("runs/latest.json", tmp_path / "work").read_bytes() == b"new"
    assert not (tmp_path / "disk").exists()


@pytest.mark.parametrize("damage", ["empty", "torn", "flipped"])
@pytest.mark.parametrize("checked", [True, False])
def test_a_damaged_copy_is_dropped_and_fetched_again(
    cache: DiskCache, behind: CountingStore, tmp_path: Path, damage: str, checked: bool
) -> None:
    read = (lambda: cache.read_checked(KEY, is_data)) if checked else (lambda: cache.read(KEY))
    read()
    copy = tmp_path / "disk" / KEY
    copy.write_bytes({"empty": b"", "torn": DATA[:-1], "flipped": b"\1" + DATA[1:]}[damage])
    assert read() == DATA
    assert behind.reads == [KEY, KEY]
    assert copy.read_bytes() == DATA
    read()
    assert behind.reads == [KEY, KEY]


def test_a_copy_without_its_checksum_is_only_for_those_who_check(
    cache: DiskCache, behind: CountingStore
) -> None:
    cache.read_checked(KEY, is_data)
    assert cache.read(KEY) == DATA
    assert behind.reads == [KEY, KEY]


def test_damage_in_the_store_is_not_kept(
    cache: DiskCache, behind: CountingStore, tmp_path: Path
) -> None:
    behind.spoil = lambda data: data[:-1] + b"?"
    with pytest.raises(IntegrityError):
        cache.read_checked(KEY, is_data)
    assert not (tmp_path / "disk" / KEY).exists()
    behind.spoil = bytes
    assert cache.read_checked(KEY, is_data) == DATA


def test_deletion_and_replacement_reach_the_copy(cache: DiskCache, tmp_path: Path) -> None:
    cache.read(KEY)
    cache.write(KEY, b"other")
    assert cache.read(KEY) == b"other"
    (tmp_path / "file").write_bytes(b"third")
    cache.upload(tmp_path / "file", KEY)
    assert cache.read(KEY) == b"third"
    cache.delete(KEY)
    with pytest.raises(IntegrityError):
        cache.read(KEY)


def test_a_placed_object_shares_the_copys_room_and_outlives_it(
    cache: DiskCache, tmp_path: Path
) -> None:
    placed, copy = tmp_path / "run" / "one.safetensors", tmp_path / "disk" / KEY
    cache.place(KEY, placed, is_data)
    assert placed.samefile(copy)
    copy.unlink()
    assert placed.read_bytes() == DATA
    # Over a damaged file, too.
    placed.write_bytes(b"")
    cache.place(KEY, placed, is_data)
    assert placed.read_bytes() == DATA


def keys(count: int) -> list[str]:
    return [f"records/latents/{number:02d}.safetensors" for number in range(count)]


def filled(count: int) -> CountingStore:
    store = CountingStore()
    for key in keys(count):
        store.write(key, bytes(1000))
    return store


def kept(folder: Path) -> set[str]:
    # One listing, so that what others do meanwhile is seen at one moment.
    there = list((folder / "records/latents").iterdir()) if folder.exists() else []
    copies = (path for path in there if path.suffix == ".safetensors" and not is_aside(path))
    return {path.relative_to(folder).as_posix() for path in copies}


def test_the_least_recently_used_copies_go_first(tmp_path: Path) -> None:
    store, folder = filled(40), tmp_path / "disk"
    cache = DiskCache(store, folder, limit_bytes=20_000)
    for age, key in enumerate(keys(18)):
        cache.read_checked(key, len)
        os.utime(folder / key, (1000 + age, 1000 + age))
    cache.read_checked(keys(1)[0], len)  # the oldest is wanted again
    for key in keys(40)[18:28]:
        cache.read_checked(key, len)
    left = kept(folder)
    assert keys(1)[0] in left
    assert set(keys(28)[18:]) <= left
    assert not left & set(keys(5)[1:])


def test_the_limit_is_kept_while_many_read(tmp_path: Path) -> None:
    store, folder = filled(60), tmp_path / "disk"
    (folder / "records/latents").mkdir(parents=True)
    cache = DiskCache(store, folder, limit_bytes=25_000)
    most = 0

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.001):
            most = max(most, len(kept(folder)))

    ended = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as readers:
        assert all(len(data) == 1000 for data in readers.map(cache.read, keys(60) * 3))
    ended.set()
    watcher.join()
    assert len(kept(folder)) >= 10
    assert max(most, len(kept(folder))) <= 25


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    store, folder = filled(60), tmp_path / "disk"
    # As processes do, each keeps its own account of the room.
    caches = [DiskCache(store, folder, limit_bytes=25_000) for _ in range(4)]

    def live(cache: DiskCache) -> None:
        for key in keys(60):
            cache.place(key, tmp_path / "run" / key, lambda data: None)

    with ThreadPoolExecutor(4) as processes:
        list(processes.map(live, caches))
    assert {path.stat().st_size for path in (tmp_path / "run").rglob("*.safetensors")} == {1000}
    assert len(kept(folder)) <= 25 + 4 * 2  # each may be a step and a file too far


def test_what_is_large_for_the_limit_is_not_kept(tmp_path: Path) -> None:
    store = filled(1)
    cache = DiskCache(store, tmp_path / "disk", limit_bytes=10_000)
    assert len(cache.read(keys(1)[0])) == 1000
    assert kept(tmp_path / "disk") == set()


def test_a_disk_that_takes_nothing_is_warned_of_once_and_reading_goes_on(
    behind: CountingStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "disk").write_bytes(b"in the way")
    cache = DiskCache(behind, tmp_path / "disk", limit_bytes=1 << 20)
    assert cache.read_checked(KEY, is_data) == DATA
    assert cache.fetch(VIDEO, tmp_path / "work").read_bytes() == DATA
    said = [record for record in caplog.records if "cannot be kept" in record.message]
    assert len(said) == 1


def test_what_killed_writers_left_is_cleared_away(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    (folder / "records").mkdir(parents=True)
    old, new = folder / "records" / ".aside-0-x", folder / "records" / ".aside-1-x"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    DiskCache(filled(1), folder, limit_bytes=1 << 20).read(keys(1)[0])
    assert not old.exists()
    assert new.exists()
