"""Every store keeps the same promises; the S3 one is tested beside its client."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cogvx.errors import ConfigError, DataError, IntegrityError, TransientError
from cogvx.store import (
    Absent,
    LocalStore,
    MemoryStore,
    ObjectStore,
    check_key,
    reached,
    require_writable,
)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return LocalStore(tmp_path / "store") if request.param == "local" else MemoryStore()


def test_what_was_written_is_read_back(store: ObjectStore) -> None:
    store.write("a/b.bin", b"one")
    store.write("a/b.bin", b"two")
    assert store.read("a/b.bin") == b"two"
    info = store.info("a/b.bin")
    assert info is not None
    assert (info.key, info.size) == ("a/b.bin", 3)


def test_what_is_absent_is_said_to_be(store: ObjectStore, tmp_path: Path) -> None:
    assert store.info("a") is None
    store.delete("a")
    for act in (lambda: store.read("a"), lambda: store.fetch("a", tmp_path / "work")):
        with pytest.raises(IntegrityError, match="a is not in"):
            act()


def test_an_object_that_appears_while_it_is_asked_for_is_absent_or_there(tmp_path: Path) -> None:
    store, keys = LocalStore(tmp_path / "store"), [f"journal/{number}" for number in range(400)]
    (tmp_path / "store" / "journal").mkdir(parents=True)
    writer = threading.Thread(target=lambda: [store.write(key, b"whole") for key in keys])
    writer.start()
    found = 0
    while found < len(keys):
        try:
            assert store.read(keys[found]) == b"whole"
        except Absent:
            continue  # and nothing else is told of it
        found += 1
    writer.join()


def test_of_racing_creators_exactly_one_wins_and_its_bytes_stay(store: ObjectStore) -> None:
    racers = 16
    barrier = threading.Barrier(racers)
    won: list[int] = []

    def race(number: int) -> None:
        barrier.wait()
        if store.create("a/pointer", bytes([number]) * 1000):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("a/pointer") == bytes(won) * 1000
    assert [info.key for info in store.entries()] == ["a/pointer"]


@pytest.mark.parametrize("key", ["", "../a", "a/../../b", "/etc/passwd", "a\0b"])
def test_a_key_that_leaves_the_root_is_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(DataError, match="leaves the folder"):
        check_key(key)
    for act in (store.read, store.info, store.delete):
        with pytest.raises(DataError):
            act(key)
    with pytest.raises(DataError):
        store.write(key, b"x")


def test_entries_are_those_under_the_prefix_in_order(store: ObjectStore) -> None:
    for key in ("b/2", "a/1", "b/10", "bc", "b/sub/x"):
        store.write(key, b"x")
    assert [info.key for info in store.entries("b/")] == ["b/10", "b/2", "b/sub/x"]
    assert [info.key for info in store.entries("b")] == ["b/10", "b/2", "b/sub/x", "bc"]
    assert [info.key for info in store.entries("none/")] == []


def test_the_stamp_changes_with_the_bytes(store: ObjectStore) -> None:
    store.write("a", b"one")
    before = store.info("a")
    store.write("a", b"two")
    after = store.info("a")
    assert before is not None
    assert after is not None
    assert before.stamp != after.stamp
    assert store.info("a") == after


def test_a_fetched_file_has_the_bytes_and_the_suffix(store: ObjectStore, tmp_path: Path) -> None:
    store.write("clips/a.mp4", b"video")
    path = store.fetch("clips/a.mp4", tmp_path / "work")
    assert path.read_bytes() == b"video"
    assert path.suffix == ".mp4"


def test_an_uploaded_file_is_an_object(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    store.upload(tmp_path / "file", "a/b")
    assert store.read("a/b") == b"bytes"


def test_what_an_interrupted_writer_left_is_not_an_object_and_can_be_removed(
    tmp_path: Path,
) -> None:
    store = LocalStore(tmp_path)
    store.write("a/b", b"x")
    (tmp_path / "a" / ".aside-0123456789ab-c").write_bytes(b"half")
    assert [info.key for info in store.entries()] == ["a/b"]
    (left,) = store.leftovers()
    assert (left.key, left.size) == ("a/.aside-0123456789ab-c", 4)
    store.delete(left.key)
    assert not list(store.leftovers())
    assert store.read("a/b") == b"x"


def test_a_store_that_cannot_be_written_is_found_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(ConfigError, match="cannot be written"):
        require_writable(LocalStore(tmp_path / "file" / "store"))


def test_asking_whether_a_store_can_be_written_leaves_nothing(store: ObjectStore) -> None:
    require_writable(store)
    assert list(store.entries()) == []


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.write("sub/a.bin", b"a")
    LocalStore(tmp_path / "elsewhere").write("deep/b.bin", b"b")
    root = tmp_path / "store"
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "sub" / "up").symlink_to("..")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    (root / "self").symlink_to("self")
    (root / "dangling").symlink_to("nowhere")
    keys = [info.key for info in store.entries()]
    assert keys == ["dangling", "linked/deep/b.bin", "self", "sub/a.bin"]
    assert store.read("linked/deep/b.bin") == b"b"
    assert [info.key for info in store.entries("linked/d")] == ["linked/deep/b.bin"]


def test_a_listing_is_in_the_order_of_whole_keys(tmp_path: Path) -> None:
    local, memory = LocalStore(tmp_path), MemoryStore()
    for key in ("a/z", "a.b", "a-b/c", "b", "a/b/c", "é", "Z"):
        local.write(key, b"1")
        memory.write(key, b"1")
    for prefix in ("", "a", "a/", "a/b", "b", "none/at/all", "a-b/c"):
        expected = [info.key for info in memory.entries(prefix)]
        assert [info.key for info in local.entries(prefix)] == expected
        assert all(local.info(info.key) == info for info in local.entries(prefix))


@pytest.mark.skipif(os.getuid() == 0, reason="root may list everything")
def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(DataError, match="locked may not be listed"):
        list(LocalStore(tmp_path).entries())


def test_below_a_file_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    store = LocalStore(tmp_path)
    assert list(store.entries("runs/1/")) == []
    with pytest.raises(Absent):
        store.read("runs/1/run.json")


# A mount whose server is away

AWAY = [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN]
STAYS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EUCLEAN]


def refusing(number: int) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_file_whose_disk_fails_is_read_again_later(tmp_path: Path) -> None:
    (tmp_path / "clip.txt").symlink_to("/proc/self/mem")  # its first page may not be read
    told = r"^file://.* was not reached for clip.txt: Input/output error; if it stays, mount it"
    with pytest.raises(TransientError, match=told):
        LocalStore(tmp_path).read("clip.txt")
    with pytest.raises(TransientError, match=told), reached(LocalStore(tmp_path), "clip.txt"):
        (tmp_path / "clip.txt").read_bytes()


@pytest.mark.parametrize("number", AWAY)
def test_a_mount_that_is_away_is_no_empty_folder_and_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = LocalStore(tmp_path)
    store.write("a/b", b"x")
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refusing(number))
        with pytest.raises(TransientError, match=os.strerror(number)):
            list(store.entries("a/"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refusing(number))
        for act in (store.read, store.info, lambda key: store.fetch(key, tmp_path)):
            with pytest.raises(TransientError, match="was not reached for a/b"):
                act("a/b")


def test_a_link_to_a_mount_that_is_away_is_not_listed_as_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounted").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "clips").symlink_to(tmp_path / "mounted")
    stat = os.stat

    def stale(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("clips"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", stale)
    with pytest.raises(TransientError, match="Stale file handle"):
        list(LocalStore(tmp_path / "store").entries())


@pytest.mark.parametrize("number", AWAY)
def test_what_a_mount_did_not_take_is_written_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(os, "fsync", refusing(number))
    acts: list[Callable[[], object]] = [
        lambda: store.write("a", b"x"),
        lambda: store.create("a", b"x"),
        lambda: store.upload(tmp_path / "file", "a"),
        lambda: require_writable(store),
    ]
    for act in acts:
        with pytest.raises(TransientError, match=os.strerror(number)):
            act()
    assert list(store.entries()) == []


@pytest.mark.parametrize("number", STAYS)
def test_what_waits_for_a_person_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = LocalStore(tmp_path)
    monkeypatch.setattr(os, "fsync", refusing(number))
    with pytest.raises(OSError, match=os.strerror(number)) as refusal:
        store.write("a", b"x")
    assert refusal.value.errno == number
    with pytest.raises(ConfigError, match=f"cannot be written: {os.strerror(number)}"):
        require_writable(store)
