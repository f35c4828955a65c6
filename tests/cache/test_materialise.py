"""The folder ends up whole, whatever was in it, or the bad record is named."""

from pathlib import Path

import pytest
import torch

from cogvx.cache.keys import PromptKey
from cogvx.cache.materialise import materialise
from cogvx.cache.records import pack_prompt, unpack
from cogvx.errors import IntegrityError
from cogvx.store import MemoryStore

KEYS = [PromptKey(f"caption {number}", "b" * 64, 4, "float32", 8) for number in range(30)]
NAMES = {key.digest: key.path for key in KEYS}


@pytest.fixture
def store() -> MemoryStore:
    filled = MemoryStore()
    for number, key in enumerate(KEYS):
        filled.write(key.path, pack_prompt(key, torch.full((4, 2), float(number))))
    return filled


def bring(store: MemoryStore, folder: Path) -> int:
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


def test_a_damaged_record_in_the_store_is_named(store: MemoryStore, tmp_path: Path) -> None:
    key = KEYS[7]
    store.write(key.path, store.read(key.path)[:-1])
    with pytest.raises(IntegrityError) as caught:
        bring(store, tmp_path)
    assert f"{key.path} in memory:// is damaged" in str(caught.value)
    assert "delete it there, and it is encoded again" in str(caught.value)
    assert not (tmp_path / f"{key.digest}.safetensors").exists()


def test_a_record_that_the_store_lacks_is_named(store: MemoryStore, tmp_path: Path) -> None:
    store.delete(KEYS[2].path)
    with pytest.raises(IntegrityError, match=f"{KEYS[2].path} is not in memory://"):
        bring(store, tmp_path)


def test_progress_ends_at_the_total(store: MemoryStore, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    materialise(NAMES, store, tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, len(KEYS)) for done in range(1, len(KEYS) + 1)]


def test_nothing_to_bring_makes_an_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    assert materialise({}, MemoryStore(), folder, on_progress=lambda done, total: None) == 0
    assert list(folder.iterdir()) == []
