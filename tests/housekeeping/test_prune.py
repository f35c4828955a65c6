"""Pruning takes what nothing needs, all of it and nothing else, and says why the rest stays."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from cogvx.adapters.card import ADAPTER_FILE
from cogvx.cache.index import CacheIndex
from cogvx.cache.materialise import materialise
from cogvx.cache.plan import plan_cache, record_paths
from cogvx.digest import digest
from cogvx.errors import IntegrityError, TransientError
from cogvx.evaluation.index import EvaluationIndex, evaluation_path
from cogvx.housekeeping import prune
from cogvx.housekeeping.names import RECORDS, kind_of
from cogvx.housekeeping.reach import Ages, Reach, find_reach
from cogvx.runs.carry import checkpoint_prefix, latest_key
from cogvx.runs.folder import RunSpec
from cogvx.runs.saved import STATE_FILE, folder_name
from cogvx.store import LocalStore, ObjectInfo, ObjectStore
from tasks.clients.s3 import S3Store
from tests.cache.toys import IDS
from tests.housekeeping.stores import (
    DAY,
    FACTS,
    NOW,
    SHELF,
    Past,
    adapter_of,
    random_past,
    recipe_in,
)

AGES = Ages(now=NOW, keep=30 * DAY, grace=DAY)


@pytest.fixture
def local_store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return Past(LocalStore(tmp_path / "store"))


def listing(store: ObjectStore) -> dict[str, ObjectInfo]:
    return {info.key: info for info in store.entries()}


def reach_of(past: Past, ages: Ages = AGES) -> Reach:
    return find_reach(past.store, listing(past.store), past.versions, ages)


def sort_out(past: Past, ages: Ages = AGES) -> prune.Sorted:
    return prune.sort_out(listing(past.store).values(), reach_of(past, ages), ages)


def pruned(past: Past, ages: Ages = AGES) -> set[str]:
    """Prune for real; what went."""
    before = listing(past.store)
    found = prune.sort_out(before.values(), reach_of(past, ages), ages)
    prune.remove(past.store, found.removable, before, on_progress=lambda _done, _total: None)
    return before.keys() - listing(past.store).keys()


def documents(store: ObjectStore, prefix: str, end: str = ".json") -> Iterable[bytes]:
    return [store.read(info.key) for info in store.entries(prefix) if info.key.endswith(end)]


def require_all_usable(past: Past, folder: Path) -> None:
    """Whoever is kept finds all it needs: training its records, a version its adapter."""
    store = past.store
    for number, data in enumerate(documents(store, "runs/", "/run.json")):
        spec = RunSpec.model_validate_json(data)
        wanted = record_paths((*spec.train, *spec.heldout), spec.empty_prompt)
        materialise(wanted, store, folder / str(number), on_progress=lambda _done, _total: None)
    for data in documents(store, "runs/", "/outcome.json"):
        assert store.info(f"adapters/{json.loads(data)['adapter_sha256']}/{ADAPTER_FILE}")
    for version in past.versions:
        assert store.info(f"adapters/{version.adapter}/{ADAPTER_FILE}")
        assert store.info(f"{SHELF}/{version.manifest}.json")
        place = evaluation_path(version.run, version.judged)
        if store.info(place) is not None:
            judged = EvaluationIndex.model_validate_json(store.read(place))
            assert all(store.info(key) for key in judged.reaches())
    for data in documents(store, "indexes/"):
        assert all(store.info(key) for key in CacheIndex.model_validate_json(data).reaches())
    assert store.info(f"{SHELF}/{store.read(f'{SHELF}/latest').decode()}.json")


@pytest.mark.parametrize("seed", range(10))
def test_whoever_is_kept_finds_all_it_needs_and_a_second_prune_nothing(
    tmp_path: Path, seed: int
) -> None:
    past = random_past(tmp_path / "store", seed)
    gone = pruned(past)
    require_all_usable(past, tmp_path / "runs")
    assert not sort_out(past).removable
    assert not {kind_of(key) for key in gone} & {"runs", "pointers", "probes", "tilings", "other"}


def test_records_of_clips_that_were_superseded_long_ago_go_and_shared_ones_stay(past: Past) -> None:
    old, _ = past.cache(1, days=60)
    new, _ = past.cache(2, days=50)
    gone = pruned(past)
    # clips 1 and 2 became 2 and 3
    assert {kind_of(key) for key in gone} == {*RECORDS, "manifests", "indexes"}
    assert sum(kind_of(key) == "latents" for key in gone) == 1
    plan = plan_cache(new, recipe_in(), facts=FACTS, ids=IDS, store=past.store)
    assert plan.is_complete
    assert not plan_cache(old, recipe_in(), facts=FACTS, ids=IDS, store=past.store).is_complete


@pytest.mark.parametrize("keeper", ["young", "run", "killed run", "version"])
def test_superseded_clips_stay_for_whoever_needs_them(past: Past, keeper: str) -> None:
    _, index = past.cache(1, days=20 if keeper == "young" else 60)
    if keeper != "young":
        run = past.train(index, days=60, finished=keeper != "killed run")
        if keeper == "version":
            past.register(run, index.manifest, judged="")
            for name in ("run", "outcome"):
                past.store.delete(f"runs/{run}/{name}.json")
    past.cache(5, days=10)
    assert not pruned(past)


def test_a_run_that_was_removed_lets_its_records_go(past: Past) -> None:
    _, index = past.cache(1, days=60)
    run = past.train(index, days=60)
    past.cache(5, days=50)
    assert not pruned(past)
    for name in ("run", "outcome"):
        past.store.delete(f"runs/{run}/{name}.json")
    gone = pruned(past)
    assert f"adapters/{adapter_of(run)}/{ADAPTER_FILE}" in gone
    assert index.reaches() & gone


def save_checkpoint(past: Past, run: str, *, days: float) -> list[str]:
    """What the launcher leaves of a checkpoint; the places, the pointer's first."""
    prefix = checkpoint_prefix(run, folder_name(200))
    keys = [latest_key(run), *(prefix + file for file in ("lora.safetensors", STATE_FILE))]
    return [past.write(key, days=days) for key in keys]


def test_checkpoints_stay_until_there_is_an_adapter(past: Past) -> None:
    _, index = past.cache(1, days=60)
    begun, ended = (past.train(index, days=60, finished=finished) for finished in (False, True))
    save_checkpoint(past, begun, days=400)
    spare = save_checkpoint(past, ended, days=2)
    assert [info.key for info in sort_out(past).removable] == spare
    assert pruned(past) == set(spare)


def test_a_checkpoint_that_is_put_meanwhile_does_not_stop_a_prune(past: Past) -> None:
    past.cache(1, days=60)
    _, index = past.cache(5, days=50)
    run = past.train(index, days=50, finished=False)
    before, found = listing(past.store), sort_out(past)
    save_checkpoint(past, run, days=0)
    prune.remove(past.store, found.removable, before, on_progress=lambda _done, _total: None)
    assert found.removable


@pytest.mark.parametrize("kind", ["latents", "prompts"])
def test_a_record_that_was_just_put_waits_for_its_index(past: Past, kind: str) -> None:
    """Those of prompts that videos were generated for wait in vain, and are made again."""
    past.cache(1, days=60)
    key = f"records/{kind}/ab/ab{'0' * 62}.safetensors"
    past.write(key)
    assert key not in pruned(past)
    past.age(key, 2)
    assert pruned(past) == {key}


def test_a_cache_run_that_lasts_for_days_keeps_what_it_made_first(past: Past) -> None:
    """Its index is there before its first record, and so is its manifest."""
    _, index = past.cache(1, days=60)
    other = recipe_in("bfloat16")
    _, long = past.cache(1, days=3, made=other)
    for key in long.reaches() - index.reaches():
        past.age(key, 40)
    assert not pruned(past)


def test_while_the_newest_clips_have_no_list_no_record_goes(past: Past) -> None:
    past.cache(1, days=60)
    _, index = past.cache(5, days=50)
    past.store.delete(f"indexes/{digest(index)}.json")
    found = sort_out(past)
    assert not {kind_of(info.key) for info in found.removable} & set(RECORDS)
    assert any("run `cogvx cache` with its recipe" in why for why in found.stays)


def test_a_finished_run_without_its_document_blocks_records_and_says_how_to_go_on(
    past: Past,
) -> None:
    _, index = past.cache(1, days=60)
    run = past.train(index, days=60)
    past.cache(5, days=50)
    past.store.delete(f"runs/{run}/run.json")
    found = sort_out(past)
    assert not {kind_of(info.key) for info in found.removable} & set(RECORDS)
    assert any(f"remove runs/{run}/" in why for why in found.stays)


def test_of_evaluations_the_newest_the_judging_and_the_young_keep_their_videos(past: Past) -> None:
    _, index = past.cache(1, days=90)
    run = past.train(index, days=90)
    judged = past.judge(run, days=80, suite="judging")
    old = past.judge(run, days=70, suite="old")
    young = past.judge(run, days=20, suite="young")
    newest = past.judge(run, days=10, suite="newest")
    past.register(run, index.manifest, judged="judging")
    gone = pruned(past)
    assert gone == old.reaches() | {evaluation_path(run, digest("old"))}
    kept = [*judged.videos, *young.videos, *newest.videos]
    assert all(past.store.info(key) for key in kept)


def test_a_version_that_was_judged_before_evaluations_were_listed_keeps_all_videos(
    past: Past,
) -> None:
    _, index = past.cache(1, days=90)
    run = past.train(index, days=90)
    past.register(run, index.manifest)
    past.write(f"videos/ab/ab{'0' * 62}.mp4", days=90)
    assert not pruned(past)
    past.judge(run, days=80)
    assert pruned(past) == {f"videos/ab/ab{'0' * 62}.mp4"}


MEASURED = {"drift": ".json", "scores": ".json", "features": "", "proofs": ".json"}


def test_what_was_measured_on_videos_goes_by_its_age(past: Past) -> None:
    past.cache(1, days=60)
    old, young = (
        [f"{kind}/{name[:2]}/{name}{end}" for kind, end in MEASURED.items()]
        for name in ("a" * 64, "b" * 64)
    )
    for keys, days in ((old, 31), (young, 29)):
        for key in keys:
            past.write(key, days=days)
    why = "what was measured on videos, younger than 30 days"
    assert sort_out(past).stays[why].objects == len(MEASURED)
    assert pruned(past) == set(old)


def test_what_is_not_ours_stays(past: Past) -> None:
    past.cache(1, days=60)
    strange = ["notes.txt", "records/latents/ab/mine.safetensors", "runs/mine/run.json", "videos/a"]
    for key in strange:
        past.write(key, days=400)
    assert not pruned(past)
    assert sort_out(past).stays["not made by cogvx, as far as their names tell"].objects == 4


@pytest.mark.parametrize("what", ["indexes", "runs", "evaluations", "pointers"])
def test_a_document_that_cannot_be_read_refuses_everything(past: Past, what: str) -> None:
    _, index = past.cache(1, days=60)
    run = past.train(index, days=60)
    past.judge(run, days=60)
    ours = [info.key for info in past.store.entries() if kind_of(info.key) == what]
    key = next(key for key in ours if not key.endswith("/change.json"))
    past.write(key, b"{", days=60)
    with pytest.raises(IntegrityError, match=key):
        reach_of(past)


def test_an_index_that_appears_meanwhile_stops_the_prune(past: Past) -> None:
    past.cache(1, days=60)
    past.cache(5, days=50)
    before = listing(past.store)
    found = sort_out(past)
    assert found.removable
    past.write(f"indexes/{'0' * 64}.json")
    with pytest.raises(TransientError, match=r"0 objects were removed; prune again"):
        prune.remove(past.store, found.removable, before, on_progress=lambda _done, _total: None)
    assert before.keys() <= listing(past.store).keys()


@pytest.mark.parametrize("days", [0, 20, 40])
def test_what_was_planned_lately_keeps_its_adapters_and_pictures(past: Past, days: int) -> None:
    """The adapter lies there since an earlier job, and no run or version needs it any more."""
    past.cache(1, days=60)
    adapter, picture = "c" * 64, "d" * 64
    old = {
        past.write(f"adapters/{adapter}/{ADAPTER_FILE}", days=50),
        past.write(f"plans/images/{picture}.png", days=50),
    }
    told = {"adapters": [[adapter, 1.0]], "image": f"plans/images/{picture}.png"}
    plan = past.write(f"plans/{'e' * 64}.json", json.dumps(told).encode(), days=days)
    assert pruned(past) == (old | {plan} if days == 40 else set())


def test_what_is_planned_meanwhile_stops_the_prune(past: Past) -> None:
    past.cache(1, days=60)
    past.write(f"adapters/{'c' * 64}/{ADAPTER_FILE}", days=50)
    before, found = listing(past.store), sort_out(past)
    assert found.removable
    past.write(f"plans/{'e' * 64}.json")
    with pytest.raises(TransientError, match=r"0 objects were removed; prune again"):
        prune.remove(past.store, found.removable, before, on_progress=lambda _done, _total: None)


@pytest.mark.parametrize("kind", ["local_store", "s3_store"])
def test_a_run_that_is_taken_up_again_stops_the_prune(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """It writes its document again, in the same bytes: on S3 only the time differs then."""
    store: ObjectStore = request.getfixturevalue(kind)
    run = f"runs/{'a' * 64}"
    document, weights = f"{run}/run.json", f"{run}/checkpoints/step-00000010/state.json"
    store.write(document, b"{}")
    store.write(weights, b"weights")
    before = listing(store)
    going = [before[document], before[weights]]
    time.sleep(1.1)  # S3 tells whole seconds
    store.write(document, b"{}")
    with pytest.raises(TransientError, match=f"{document} .* 0 objects were removed; prune again"):
        prune.remove(store, going, before, on_progress=lambda _done, _total: None, decisions=True)
    assert before.keys() == listing(store).keys()


def test_documents_go_before_what_they_point_at(past: Past) -> None:
    past.cache(1, days=60)
    past.cache(5, days=50)
    kinds = [kind_of(info.key) for info in sort_out(past).removable]
    assert max(kinds.index("indexes"), kinds.index("manifests")) < min(map(kinds.index, RECORDS))


def test_a_dry_run_changes_nothing(past: Past) -> None:
    past.cache(1, days=60)
    past.cache(5, days=50)
    before = listing(past.store)
    assert sort_out(past).removable
    assert listing(past.store) == before


def test_on_s3_what_is_reached_stays_and_the_rest_goes_when_it_is_old(s3_store: S3Store) -> None:
    past = Past(s3_store)
    past.cache(1, days=0)
    new, index = past.cache(2, days=0)
    assert not pruned(past)  # all of it is fresh
    later = Ages(now=NOW + 40 * DAY, keep=30 * DAY, grace=DAY)
    gone = pruned(past, later)
    assert sum(kind_of(key) == "latents" for key in gone) == 1
    assert not gone & index.reaches()
    assert plan_cache(new, recipe_in(), facts=FACTS, ids=IDS, store=s3_store).is_complete
