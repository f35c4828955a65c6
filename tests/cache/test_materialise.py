"""The folder ends up whole, whatever was in it, or the bad record is named."""

from pathlib import Path

import pytest
import torch

from cogvx.cache.disk import DiskCache
from cogvx.cache.keys import PromptKey
from cogvx.cache.materialise import UnusableRecords, drop_damaged, materialise
from cogvx.cache.records import pack_prompt, unpack
from cogvx.errors import TransientError
from cogvx.store import MemoryStore, ObjectStore

KEYS = [PromptKey(f"caption {number}", "b" * 64, 4, "float32", 8) for number in range(30)]
NAMES = {key.digest: key.path for key in KEYS}


@pytest.fixture
def store() -> MemoryStore:
    filled = MemoryStore()
    for number, key in enumerate(KEYS):
        filled.write(key.path, pack_prompt(key, torch.full((4, 2), float(number))))
    return filled


def bring(store: ObjectStore, folder: Path) -> int:
    return materialise(NAMES, store, folder, on_progress=lambda done, total: None)


def test_every_record_is_brought_and_can_be_read(store: MemoryStore, tmp_path: Path) -> None:
    assert bring(store, tmp_path / "run" / "records") == len(KEYS)
    for number, key in enumerate(KEYS):
        data = (tmp_path / "run" / "records" / f"{key.digest}.safetensors").read_bytes()
        assert torch.equal(unpack(data, key.digest), torch.full((4, 2), float(number)))


def test_what_is_there_and_whole_is_not_fetched_again(store: MemoryStore, tmp_path: Path) -> None:
    bring(store, tmp_path)
    store.objects.clear()
    assert bring(store, tmp_path) == 0


@pytest.mark.parametrize("damage", ["empty", "torn", "flipped", "another's"])
def test_a_damaged_copy_is_fetched_again(store: MemoryStore, tmp_path: Path, damage: str) -> None:
    bring(store, tmp_path)
    path = tmp_path / f"{KEYS[3].digest}.safetensors"
    whole = path.read_bytes()
    flipped = bytes([*whole[:-1], whole[-1] ^ 1])
    other = (tmp_path / f"{KEYS[4].digest}.safetensors").read_bytes()
    path.write_bytes(
        {"empty": b"", "torn": whole[:-5], "flipped": flipped, "another's": other}[damage]
    )
    assert bring(store, tmp_path) == 1
    assert path.read_bytes() == whole


def flip_a_bit(store: MemoryStore, path: str) -> None:
    data = bytearray(store.read(path))
    data[-5] ^= 4
    store.write(path, bytes(data))


def test_all_that_cannot_be_used_is_named_and_the_rest_is_brought(
    store: MemoryStore, tmp_path: Path
) -> None:
    torn, flipped, absent = (KEYS[number].path for number in (7, 8, 9))
    store.write(torn, store.read(torn)[:-1])
    flip_a_bit(store, flipped)
    store.delete(absent)
    with pytest.raises(UnusableRecords) as caught:
        bring(store, tmp_path)
    assert set(caught.value.paths) == {torn, flipped, absent}
    assert "3 of 30 records in memory:// cannot be used" in str(caught.value)
    assert f"{torn}: record {KEYS[7].digest} is damaged: " in str(caught.value)
    assert f"{absent} is not in memory://" in str(caught.value)
    brought = {path.stem for path in tmp_path.iterdir()}
    assert brought == set(NAMES) - {KEYS[number].digest for number in (7, 8, 9)}


def test_a_long_list_is_cut_in_words_but_not_in_paths(tmp_path: Path) -> None:
    with pytest.raises(UnusableRecords, match="and 25 more") as caught:
        bring(MemoryStore(), tmp_path)
    assert len(caught.value.paths) == len(KEYS)


def test_only_what_is_damaged_is_dropped_and_a_warning_names_it(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, whole, absent = (KEYS[number].path for number in (3, 4, 5))
    flip_a_bit(store, damaged)
    store.delete(absent)
    assert drop_damaged(store, (damaged, whole, absent)) == (damaged,)
    assert store.info(damaged) is None
    assert store.info(whole) is not None
    (said,) = caplog.records
    assert damaged in said.message
    assert drop_damaged(store, (damaged, whole, absent)) == ()


def test_what_was_dropped_and_made_again_is_brought(store: MemoryStore, tmp_path: Path) -> None:
    key, cache = KEYS[3], DiskCache(store, tmp_path / "disk", limit_bytes=1 << 20)
    flip_a_bit(store, key.path)
    with pytest.raises(UnusableRecords) as caught:
        bring(cache, tmp_path / "run")
    drop_damaged(store, caught.value.paths)
    store.create(key.path, pack_prompt(key, torch.full((4, 2), 3.0)))
    assert bring(cache, tmp_path / "run") == 1


def test_copies_on_the_disk_are_used_and_a_flipped_bit_in_one_is_not(
    store: MemoryStore, tmp_path: Path
) -> None:
    cache = DiskCache(store, tmp_path / "disk", limit_bytes=1 << 20)
    bring(cache, tmp_path / "first")
    path = KEYS[3].path
    whole = store.read(path)
    copy = tmp_path / "disk" / path
    copy.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    kept = dict(store.objects)
    store.objects.clear()
    store.objects[path] = kept[path]
    assert bring(cache, tmp_path / "second") == len(KEYS)
    for folder in ("first", "second"):
        # The first run's file was the same as the copy; its readers refuse it, and so on.
        bring(cache, tmp_path / folder)
        assert (tmp_path / folder / f"{KEYS[3].digest}.safetensors").read_bytes() == whole


def test_a_store_that_does_not_answer_ends_it_at_once(tmp_path: Path) -> None:
    class Away(MemoryStore):
        def read(self, key: str) -> bytes:
            raise TransientError("away")

    with pytest.raises(TransientError):
        bring(Away(), tmp_path)


def test_progress_ends_at_the_total(store: MemoryStore, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    materialise(NAMES, store, tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, len(KEYS)) for done in range(1, len(KEYS) + 1)]


def test_nothing_to_bring_makes_an_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    assert materialise({}, MemoryStore(), folder, on_progress=lambda done, total: None) == 0
    assert list(folder.iterdir()) == []
