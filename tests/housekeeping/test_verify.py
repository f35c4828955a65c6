"""A record with one wrong bit is named; whole ones, and those that are gone, are not."""

from pathlib import Path

import pytest

from cogvx.cache.materialise import drop_damaged
from cogvx.housekeeping.names import RECORDS, kind_of
from cogvx.housekeeping.verify import find_damaged
from cogvx.housekeeping.whose import find_whose
from cogvx.store import LocalStore, MemoryStore, ObjectStore
from tests.housekeeping.stores import Past


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    past = Past(LocalStore(tmp_path))
    past.cache(1, days=0)
    return past.store


def places(store: ObjectStore) -> list[str]:
    return [info.key for info in store.entries() if kind_of(info.key) in RECORDS]


def flip_a_bit(store: ObjectStore, key: str, byte: int) -> None:
    data = bytearray(store.read(key))
    data[byte] ^= 1
    store.write(key, bytes(data))


def silent(_done: int, _total: int) -> None:
    """Nobody watches."""


def test_whole_records_are_whole(store: ObjectStore) -> None:
    seen: list[tuple[int, int]] = []
    keys = places(store)
    assert find_damaged(store, keys, on_progress=lambda *now: seen.append(now)) == ()
    assert seen[-1] == (len(keys), len(keys))


@pytest.mark.parametrize("byte", [0, 20, -1])
def test_a_flipped_bit_is_found_named_and_dropped_when_asked(store: ObjectStore, byte: int) -> None:
    keys = places(store)
    key = next(key for key in keys if kind_of(key) == "latents")
    flip_a_bit(store, key, byte)
    (found,) = find_damaged(store, keys, on_progress=silent)
    assert found.key == key
    assert "damaged" in found.why
    assert "clips/000" in str(find_whose(store, [key])[key])
    assert store.info(key) is not None
    assert drop_damaged(store, [found.key]) == (key,)
    assert find_damaged(store, places(store), on_progress=silent) == ()


def test_a_record_under_anothers_name_is_damaged(store: ObjectStore) -> None:
    first, second, *_ = places(store)
    store.write(second, store.read(first))
    assert [one.key for one in find_damaged(store, [first, second], on_progress=silent)] == [second]


def test_a_record_that_was_removed_meanwhile_is_not_damaged() -> None:
    absent = f"records/latents/ab/ab{'0' * 62}.safetensors"
    assert find_damaged(MemoryStore(), [absent], on_progress=silent) == ()
