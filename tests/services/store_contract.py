"""What every object store promises; each kind of store inherits these tests with a `store`."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from cogvx.errors import DataError, IntegrityError
from cogvx.store import ObjectStore, require_writable

RACERS = 8
STRANGE_KEYS = (
    "plain",
    "deep/er/still.bin",
    "with space/and+plus.bin",
    "per%20cent/and%2Fslash",
    "Grüße/北京.mp4",
    "a=b&c=d?e#f",
)


class StoreContract:
    """Subclass it and define the fixture `store`: an empty store that takes objects."""

    def test_an_object_reads_back_as_written(self, store: ObjectStore) -> None:
        data = bytes(range(256)) * 1000
        store.write("a/b.bin", data)
        assert store.read("a/b.bin") == data

    def test_an_empty_object_is_an_object(self, store: ObjectStore) -> None:
        store.write("empty", b"")
        assert store.read("empty") == b""
        assert [entry.size for entry in store.entries()] == [0]

    def test_writing_again_replaces_and_changes_the_stamp(self, store: ObjectStore) -> None:
        store.write("key", b"one")
        before = store.info("key")
        store.write("key", b"other")
        after = store.info("key")
        assert store.read("key") == b"other"
        assert before is not None
        assert after is not None
        assert (before.size, after.size) == (3, 5)
        assert before.stamp != after.stamp

    def test_an_absent_object_is_named(self, store: ObjectStore, tmp_path: Path) -> None:
        store.write("a/there", b"1")
        assert store.info("a/absent") is None
        for ask in (store.read, lambda key: store.fetch(key, tmp_path)):
            with pytest.raises(IntegrityError, match="a/absent is not in "):
                ask("a/absent")
            with pytest.raises(IntegrityError, match="a is not in "):
                ask("a")

    def test_creation_never_replaces(self, store: ObjectStore) -> None:
        assert store.create("key", b"first")
        assert not store.create("key", b"second")
        assert store.read("key") == b"first"

    def test_creation_is_possible_again_after_deletion(self, store: ObjectStore) -> None:
        store.create("key", b"first")
        store.delete("key")
        assert store.create("key", b"second")
        assert store.read("key") == b"second"

    def test_of_racing_creators_exactly_one_wins(self, store: ObjectStore) -> None:
        for round_number in range(5):
            start = Barrier(RACERS)

            def race(racer: int, key: str = f"race/{round_number}", start: Barrier = start) -> bool:
                start.wait()
                return store.create(key, str(racer).encode())

            with ThreadPoolExecutor(RACERS) as racers:
                won = list(racers.map(race, range(RACERS)))
            assert sum(won) == 1
            assert store.read(f"race/{round_number}") == str(won.index(True)).encode()

    def test_info_and_entries_agree(self, store: ObjectStore) -> None:
        store.write("a/b", b"12345")
        (entry,) = store.entries()
        assert entry == store.info("a/b")
        assert (entry.key, entry.size) == ("a/b", 5)

    def test_entries_begin_with_the_prefix_in_order(self, store: ObjectStore) -> None:
        # None of them lies below another: a folder on a disk cannot hold such a pair.
        for key in ("b/2", "a/1", "b/10", "ba", "b/3/x", "c"):
            store.write(key, b"")
        assert [entry.key for entry in store.entries("b/")] == ["b/10", "b/2", "b/3/x"]
        assert [entry.key for entry in store.entries("b")] == ["b/10", "b/2", "b/3/x", "ba"]
        assert next(store.entries()).key == "a/1"
        assert list(store.entries("nothing/")) == []

    def test_any_name_that_people_give_files_works(
        self, store: ObjectStore, tmp_path: Path
    ) -> None:
        for number, key in enumerate(STRANGE_KEYS):
            store.write(key, str(number).encode())
        assert [entry.key for entry in store.entries()] == sorted(STRANGE_KEYS)
        for number, key in enumerate(STRANGE_KEYS):
            assert store.read(key) == str(number).encode()
            assert store.fetch(key, tmp_path).read_bytes() == str(number).encode()

    def test_fetch_gives_a_file_with_the_suffix(self, store: ObjectStore, tmp_path: Path) -> None:
        data = b"frame" * 10_000
        store.write("clips/one.mp4", data)
        path = store.fetch("clips/one.mp4", tmp_path / "work")
        assert path.suffix == ".mp4"
        assert path.read_bytes() == data
        # Fetched again over what an earlier run left there.
        assert store.fetch("clips/one.mp4", tmp_path / "work").read_bytes() == data

    def test_upload_stores_a_files_bytes(self, store: ObjectStore, tmp_path: Path) -> None:
        path = tmp_path / "local.bin"
        path.write_bytes(b"bytes" * 100_000)
        store.upload(path, "up/loaded.bin")
        assert store.read("up/loaded.bin") == path.read_bytes()

    def test_deletion_is_final_and_absence_is_fine(self, store: ObjectStore) -> None:
        store.write("key", b"1")
        store.delete("key")
        store.delete("key")
        assert store.info("key") is None
        assert list(store.entries()) == []

    @pytest.mark.parametrize("key", ["", "/etc/passwd", "../out", "a/../../out", "a\0b"])
    def test_no_key_leaves_the_root(self, store: ObjectStore, tmp_path: Path, key: str) -> None:
        for act in (
            store.read,
            store.delete,
            store.info,
            lambda key: store.write(key, b""),
            lambda key: store.create(key, b""),
            lambda key: store.fetch(key, tmp_path),
        ):
            with pytest.raises(DataError):
                act(key)

    def test_a_store_that_takes_objects_is_writable_and_stays_empty(
        self, store: ObjectStore
    ) -> None:
        require_writable(store)
        assert list(store.entries()) == []
