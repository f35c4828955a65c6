"""Housekeeping of a real store beside a real MLflow: cached clips, a trained run, its version."""

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvx.check import check_file
from cogvx.errors import ConfigError, IntegrityError
from cogvx.housekeeping.names import kind_of
from cogvx.mp4 import read_mp4
from cogvx.store import LocalStore
from tasks.keeping import housekeeping
from tasks.keeping.inspection import inspect_record
from tasks.settings import settings
from tasks.training import train
from tasks.training.register import register_adapter
from tasks.workbench import Workbench, open_workbench
from tests.e2e.cache_stage import fill_cache
from tests.e2e.conftest import Place, make_place
from tests.fixtures.nights import cached_home, keep_trained

DAY = 86_400.0


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, nano_base: Path, world_clips: Path
) -> Iterator[Place]:
    """A home whose clips are cached and whose adapter is registered, as after a night's run."""
    root = tmp_path_factory.mktemp("housekeeping")
    with cached_home(root, nano_base, world_clips) as recipe:
        keep_trained(open_workbench(check_file(recipe).recipe), nano_base, heldout_after=1.0)
        yield make_place(root, recipe)


@pytest.fixture
def bench(place: Place) -> Workbench:
    return open_workbench(check_file(place.recipe).recipe)


@pytest.fixture
def leftover(bench: Workbench) -> Iterator[str]:
    """A record that nothing needs, two days old; gone afterwards."""
    key = f"records/latents/ab/ab{'0' * 62}.safetensors"
    bench.store.write(key, b"x" * 1000)
    assert isinstance(bench.store, LocalStore)
    then = time.time() - 2 * DAY
    os.utime(bench.store.root / key, (then, then))
    yield key
    bench.store.delete(key)


def objects(bench: Workbench) -> set[str]:
    return {info.key for info in bench.store.entries()}


def prune(*, apply: bool) -> dict[str, int]:
    found = housekeeping.prune_store(apply=apply, keep_days=30, grace_days=1)
    return {group.name: group.objects for group in found.goes}


def test_a_dry_run_tells_and_changes_nothing_and_apply_removes(
    bench: Workbench, leftover: str
) -> None:
    before = objects(bench)
    assert prune(apply=False) == {"latents": 1}
    assert objects(bench) == before
    assert prune(apply=True) == {"latents": 1}
    assert objects(bench) == before - {leftover}


def test_what_killed_writers_left_is_counted_and_goes_once_it_is_older_than_the_grace(
    bench: Workbench,
) -> None:
    assert isinstance(bench.store, LocalStore)
    folder = bench.store.root / "records" / "latents" / "ab"
    folder.mkdir(parents=True, exist_ok=True)
    names = (f".aside-{number:012x}-ab{'0' * 62}.safetensors" for number in range(2))
    old, young = (folder / name for name in names)
    for path in (old, young):
        path.write_bytes(b"half")
    then = time.time() - 2 * DAY
    os.utime(old, (then, then))
    found = housekeeping.store_stats(None)
    (facts,) = (one for one in found.kinds if one.kind == "leftovers")
    assert (facts.objects, facts.bytes) == (2, 8)
    assert found.unneeded_objects == 2
    assert prune(apply=False) == {"leftovers": 1}
    assert old.exists()
    assert prune(apply=True) == {"leftovers": 1}
    assert not old.exists()
    assert young.exists()
    young.unlink()


def test_after_a_prune_of_a_year_old_store_nothing_is_done_again(
    place: Place, bench: Workbench
) -> None:
    assert isinstance(bench.store, LocalStore)
    then = time.time() - 365 * DAY
    for key in objects(bench):
        os.utime(bench.store.root / key, (then, then))
    assert set(prune(apply=True)) <= {"plans"}
    assert fill_cache(str(place.recipe)).records_encoded == 0
    assert not train.train_adapter.fn(bench).trained
    assert not register_adapter.fn(bench).created


def test_a_version_keeps_its_adapter_and_clips_when_its_run_was_removed(bench: Workbench) -> None:
    kept = {key: bench.store.read(key) for key in objects(bench) if key.startswith("runs/")}
    for key in kept:
        bench.store.delete(key)
    try:
        before = objects(bench)
        prune(apply=True)
        gone = before - objects(bench)
        assert not {kind_of(key) for key in gone} & {"adapters", "manifests", "indexes", "latents"}
    finally:
        for key, data in kept.items():
            bench.store.write(key, data)


def test_an_mlflow_that_knows_nothing_of_the_store_is_refused(
    bench: Workbench, leftover: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGVX_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    settings.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"nothing is pruned.*knows none of the 1 finished"):
            prune(apply=True)
        assert leftover in objects(bench)
    finally:
        monkeypatch.undo()
        settings.cache_clear()


def test_an_mlflow_that_cannot_be_read_is_refused_and_stats_only_note_it(
    place: Place, bench: Workbench, leftover: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.root / "no-database").write_text("text" * 1000)
    monkeypatch.setenv("COGVX_TRACKING_URI", f"sqlite:///{place.root}/no-database")
    settings.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"nothing is pruned.*MLflow at"):
            prune(apply=True)
        assert leftover in objects(bench)
        (note,) = housekeeping.store_stats(None).notes
        assert note.startswith("versions are left out: MLflow at")
    finally:
        monkeypatch.undo()
        settings.cache_clear()


def test_stats_count_by_kind_size_and_need(bench: Workbench, leftover: str) -> None:
    found = housekeeping.store_stats(bench.recipe)
    kinds = {one.kind: one for one in found.kinds}
    assert kinds["latents"].objects == 13
    assert kinds["latents"].newest - kinds["latents"].oldest > DAY
    made = f"9x48x48 in float32 by VAE {bench.ids.vae[:12]}"
    assert found.made == {made: 12, "in no list of records": 1}
    assert {(one.kind, one.wanted, one.present) for one in found.recipe} == {
        ("latents", 12, 12),
        ("prompts", 13, 13),
    }
    roots = {root.name.split(",")[0].split(" ")[0]: root for root in found.roots}
    assert roots.keys() == {"newest", "run", "tiny"}
    assert all(root.present == root.wanted for root in roots.values())
    assert (found.unneeded_objects, found.unneeded_bytes) == (1, 1000)


def test_a_clips_record_is_shown_beside_its_source(bench: Workbench, tmp_path: Path) -> None:
    clip = bench.latest_manifest().clips[0]
    out = tmp_path / "out.mp4"
    found = inspect_record(bench.recipe, clip.key, out)
    facts = dict(found.facts)
    assert facts["clip"] == facts["source"] == clip.key
    assert facts["caption"] == clip.caption
    assert ("made from", f"source_sha256 = {clip.sha256}") in found.facts
    assert ("made from", "size = 9x48x48") in found.facts
    assert float(facts["PSNR"].split(" ")[0]) > 3
    video = read_mp4(out)
    assert len(video.rgb_fhwc) == 9
    assert math.isclose(video.fps, 8)
    by_key = inspect_record(bench.recipe, facts["record"][:12], tmp_path / "again.mp4")
    assert by_key.facts == found.facts


def test_a_captions_record_is_its_text_and_shape(bench: Workbench) -> None:
    key = next(key for key in sorted(objects(bench)) if kind_of(key) == "prompts")
    found = inspect_record(bench.recipe, Path(key).stem, None)
    assert found.video is None
    facts = dict(found.facts)
    assert facts["tensor"].startswith("16x64 float32")
    assert any(fact.startswith("text = ") for _, fact in found.facts)


@pytest.mark.parametrize("what", ["clip-00.mp4", "0000000", "../etc"])
def test_what_names_no_record_is_a_sentence(bench: Workbench, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        inspect_record(bench.recipe, what, None)


def test_the_command_names_damage_ends_with_3_and_drops_only_when_told(
    place: Place, bench: Workbench
) -> None:
    key = next(key for key in sorted(objects(bench)) if kind_of(key) == "latents")
    data = bench.store.read(key)
    bench.store.write(key, data[:-1] + bytes([data[-1] ^ 1]))
    assert housekeeping.verify_records(bench.recipe, drop=False).damaged[0].key == key
    assert bench.store.info(key) is not None
    with pytest.raises(IntegrityError, match="damaged"):
        inspect_record(bench.recipe, Path(key).stem, None)

    done = place.run("cache", "verify", str(place.recipe), "--drop", "--json")
    assert done.returncode == 3
    (damaged,) = json.loads(done.stdout)["damaged"]
    assert damaged["key"] == key
    assert "clip-" in damaged["of"]
    assert "1 were removed: run `cogvx cache`" in " ".join(done.stderr.split())
    assert bench.store.info(key) is None
    assert fill_cache(str(place.recipe)).records_encoded == 1
    assert bench.store.read(key) == data
