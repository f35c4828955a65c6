"""Records with one flipped bit are named, refused and encoded again; nothing is trained on them."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvx.cache.index import CacheIndex
from cogvx.check import check_file
from cogvx.store import LocalStore
from tasks.caching.records import RecordsLost, bring_records
from tasks.settings import settings
from tasks.workbench import Workbench, open_workbench, read_stored
from tests.e2e.cache_stage import fill_cache
from tests.e2e.conftest import write_recipe


@pytest.fixture
def recipe_path(
    tmp_path: Path, nano_base: Path, world_clips: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    monkeypatch.setenv("COGVX_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    path = write_recipe(tmp_path / "recipe.toml", clips=str(world_clips), base=nano_base)
    path.write_text(path.read_text().replace("= 48", "= 16"))
    yield path
    settings.cache_clear()


@pytest.fixture
def bench(recipe_path: Path) -> Workbench:
    return open_workbench(check_file(recipe_path).recipe)


def flip_a_bit(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def test_flipped_bits_are_named_refused_and_encoded_again(
    recipe_path: Path, bench: Workbench, tmp_path: Path
) -> None:
    report = fill_cache(str(recipe_path))
    store = bench.store
    assert isinstance(store, LocalStore)
    index = read_stored(store, f"indexes/{report.index}.json", CacheIndex)
    wanted = {Path(path).stem: path for path in index.reaches()}
    whole = {path: store.read(path) for path in wanted.values()}

    chance = random.Random(4)
    damaged = chance.sample(sorted(whole), 4)
    for path in damaged:
        flip_a_bit(store.root / path, chance)
    folder = tmp_path / "records"
    with pytest.raises(RecordsLost) as caught:
        bring_records(bench, wanted, folder, what="fetch records")
    assert all(path in str(caught.value) for path in damaged)
    brought = {path.stem for path in folder.iterdir()}
    assert brought == set(wanted) - {Path(path).stem for path in damaged}

    again = fill_cache(str(recipe_path))
    assert (again.records_encoded, again.index) == (4, report.index)
    assert {path: store.read(path) for path in whole} == whole
    bring_records(bench, wanted, folder, what="fetch records")
    assert {path.stem: path.read_bytes() for path in folder.iterdir()} == {
        name: whole[path] for name, path in wanted.items()
    }
