"""Versions leave by age and number; what champions, people and live runs need never does."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from cogvx.adapters.card import ADAPTER_FILE
from cogvx.cache.materialise import materialise
from cogvx.cache.plan import record_paths
from cogvx.digest import canonical_json
from cogvx.errors import TransientError
from cogvx.evaluation.index import EvaluationIndex, evaluation_path
from cogvx.housekeeping import prune
from cogvx.housekeeping.names import RECORDS, kind_of
from cogvx.housekeeping.reach import Ages, Leaving, Reach, Registered, find_reach
from cogvx.housekeeping.retention import Candidate, Rule, why_kept
from cogvx.runs.carry import checkpoint_prefix, latest_key
from cogvx.runs.folder import Fork, RunSpec
from cogvx.runs.saved import STATE_FILE, folder_name
from cogvx.store import LocalStore, ObjectInfo, ObjectStore
from tests.housekeeping.stores import DAY, NOW, SHELF, Past, adapter_of, random_past

AGES = Ages(now=NOW, keep=30 * DAY, grace=DAY)
RULE = Rule(keep=30 * DAY, last=2)


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return Past(LocalStore(tmp_path / "store"))


def candidate(number: int, *, days: float | None = 100, **facts: object) -> Candidate:
    name = Registered(f"tiny version {number}", run=f"{number}")
    touched = None if days is None else NOW - days * DAY
    return Candidate("tiny", number, name, touched, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"aliases": ("challenger", "champion")}, "it is challenger and champion"),
        ({"was_champion": True}, "it was champion"),
        ({"pinned": True}, "a person pinned it"),
        ({"days": 29}, "it was made or judged within 30 days"),
        ({"days": None}, "nobody knows how old it is"),
        ({}, None),
    ],
)
def test_a_version_stays_for_a_reason_that_is_told(
    facts: dict[str, object], why: str | None
) -> None:
    versions = [candidate(1, **facts), candidate(2), candidate(3)]  # type: ignore[arg-type]
    found = why_kept(versions, RULE, now=NOW)
    assert found.get("tiny version 1") == why
    assert found["tiny version 3"] == "it is among the last 2 of tiny"


def listing(store: ObjectStore) -> dict[str, ObjectInfo]:
    return {info.key: info for info in store.entries()}


def leaving(names: Sequence[str]) -> Leaving:
    return Leaving(frozenset(names), unfinished_before=NOW - AGES.keep - AGES.grace)


def sorted_out(past: Past, names: Sequence[str] = ()) -> tuple[Reach, prune.Sorted]:
    objects = listing(past.store)
    reach = find_reach(past.store, objects, past.versions, AGES, leaving(names))
    return reach, prune.sort_out(objects.values(), reach, AGES)


def sweep(past: Past, names: Sequence[str] = (), *, most: int | None = None) -> set[str]:
    """Sweep for real, or until killed after so many objects; what went."""
    before = listing(past.store)
    _, found = sorted_out(past, names)
    prune.remove(past.store, found.removable[:most], before, on_progress=lambda _done, _all: None)
    return before.keys() - listing(past.store).keys()


def require_usable(past: Past, gone: frozenset[str], folder: Path) -> None:
    """Versions that stay have adapter, clips and verdict; runs that stay can be trained again."""
    store = past.store
    for version in past.versions:
        if version.run in gone:
            continue
        assert store.info(f"adapters/{version.adapter}/{ADAPTER_FILE}")
        assert store.info(f"{SHELF}/{version.manifest}.json")
        place = evaluation_path(version.run, version.judged)
        if store.info(place) is not None:
            judged = EvaluationIndex.model_validate_json(store.read(place))
            assert all(store.info(key) for key in judged.reaches())
    for info in list(store.entries("runs/")):
        run = info.key.split("/")[1]
        if run not in gone and info.key.endswith("/run.json"):
            spec = RunSpec.model_validate_json(store.read(info.key))
            wanted = record_paths((*spec.train, *spec.heldout), spec.empty_prompt)
            materialise(wanted, store, folder / run, on_progress=lambda _done, _total: None)
        if run not in gone and info.key.endswith("/outcome.json"):
            sha256 = json.loads(store.read(info.key))["adapter_sha256"]
            assert store.info(f"adapters/{sha256}/{ADAPTER_FILE}")


def random_fates(past: Past, seed: int) -> list[str]:
    """The versions that leave of a random registry with champions, pins and ages."""
    chance = random.Random(seed)
    found = why_kept(
        [
            Candidate(
                model="tiny",
                number=number,
                registered=version,
                touched=NOW - chance.randrange(20, 120) * DAY,
                aliases=("champion",) if chance.random() < 0.1 else (),
                was_champion=chance.random() < 0.15,
                pinned=chance.random() < 0.1,
            )
            for number, version in enumerate(past.versions, start=1)
        ],
        Rule(keep=30 * DAY, last=1),
        now=NOW,
    )
    return [version.name for version in past.versions if version.name not in found]


@pytest.mark.parametrize("seed", [0, 3, 6, 8, 11])
def test_whoever_stays_finds_all_it_needs_wherever_a_sweep_is_killed(
    tmp_path: Path, seed: int
) -> None:
    past = random_past(tmp_path / "store", seed, nights=24)
    names = random_fates(past, seed)
    assert names
    chance = random.Random(seed)
    forgotten = sorted_out(past, names)[0].forgotten
    while sweep(past, names, most=chance.choice([1, 20, 50, None])):
        require_usable(past, forgotten, tmp_path / "runs")
    assert not sorted_out(past, names)[1].removable
    left = {key.split("/")[1] for key in listing(past.store) if key.startswith("runs/")}
    assert not left & forgotten


def two_versions(past: Past) -> tuple[str, str]:
    """Versions 1 and 2, of clips that share one and were superseded long ago; their runs."""
    runs = []
    for number, days in ((1, 90), (2, 80)):
        _, index = past.cache(number, days=days)
        run = past.train(index, days=days)
        past.judge(run, days=days)
        past.register(run, index.manifest)
        runs.append(run)
    past.cache(8, days=60)
    return runs[0], runs[1]


def test_a_version_that_leaves_takes_along_what_it_alone_needed(past: Past) -> None:
    first, second = two_versions(past)
    reach, found = sorted_out(past, ["tiny version 1"])
    assert reach.forgotten == {first}
    assert set(found.why.values()) == {
        "only tiny version 1 needed it",
        "newer documents superseded it",
    }
    gone = sweep(past, ["tiny version 1"])
    assert f"adapters/{adapter_of(first)}/{ADAPTER_FILE}" in gone
    assert {f"runs/{first}/run.json", f"runs/{first}/outcome.json"} <= gone
    assert sum(kind_of(key) == "videos" for key in gone) == 2
    # clips 1 and 2 against 2 and 3
    assert sum(kind_of(key) == "latents" for key in gone) == 1
    assert not [key for key in gone if second in key or adapter_of(second) in key]


def test_documents_go_before_what_they_promise(past: Past) -> None:
    two_versions(past)
    kinds = [kind_of(info.key) for info in sorted_out(past, ["tiny version 1"])[1].removable]
    assert kinds.index("runs") < kinds.index("evaluations") < kinds.index("videos")
    assert kinds.index("videos") < kinds.index("adapters") < kinds.index("latents")


def test_by_default_no_version_and_no_run_leaves(past: Past) -> None:
    two_versions(past)
    objects = listing(past.store)
    reach = find_reach(past.store, objects, past.versions, AGES)
    assert not prune.sort_out(objects.values(), reach, AGES).removable


def test_a_version_whose_clips_are_the_newest_stays(past: Past) -> None:
    _, index = past.cache(1, days=90)
    run = past.train(index, days=90)
    past.register(run, index.manifest, judged="")
    assert not sweep(past, ["tiny version 1"])


def test_a_run_that_another_version_stays_for_is_not_forgotten(past: Past) -> None:
    first, _ = two_versions(past)
    shared = past.versions[0]
    past.versions.append(
        Registered("other version 1", run=first, manifest=shared.manifest, adapter=shared.adapter)
    )
    gone = sweep(past, ["tiny version 1"])
    assert not [key for key in gone if kind_of(key) in ("adapters", "runs", *RECORDS)]


def fork_from(past: Past, run: str, source: str, *, days: float) -> None:
    """Have a run say that it began with the weights of another one."""
    key = f"runs/{run}/run.json"
    spec = RunSpec.model_validate_json(past.store.read(key))
    begun = spec.model_copy(update={"fork": Fork(run=source, step=1, sha256="0" * 64)})
    past.write(key, canonical_json(begun), days=days)


def begin(past: Past, *, days: float, checkpoint: float, fork: str | None = None) -> str:
    """A run that was begun, and saved a checkpoint so many days ago."""
    _, index = past.cache(4, days=days)
    run = past.train(index, days=days, finished=False)
    if fork is not None:
        fork_from(past, run, fork, days=days)
    prefix = checkpoint_prefix(run, folder_name(200))
    for key in (latest_key(run), prefix + "lora.safetensors", prefix + STATE_FILE):
        past.write(key, days=checkpoint)
    past.cache(8, days=min(days, 60))
    return run


@pytest.mark.parametrize(("checkpoint", "stays"), [(20, True), (40, False)])
def test_an_unfinished_run_stays_while_its_checkpoints_are_young(
    past: Past, checkpoint: float, stays: bool
) -> None:
    run = begin(past, days=90, checkpoint=checkpoint)
    reach, _ = sorted_out(past)
    assert (run in reach.forgotten) is not stays
    gone = sweep(past)
    assert any(kind_of(key) == "checkpoints" for key in gone) is not stays
    assert any(kind_of(key) == "latents" for key in gone) is not stays


def test_the_weights_that_a_live_run_begins_with_stay(past: Past) -> None:
    first, _ = two_versions(past)
    begin(past, days=50, checkpoint=10, fork=first)
    assert first not in sorted_out(past, ["tiny version 1"])[0].forgotten


@pytest.mark.parametrize(
    ("leaves", "stays"), [(["tiny version 1"], True), (["tiny version 1", "tiny version 2"], False)]
)
def test_the_weights_that_a_finished_run_began_with_stay_as_long_as_that_run(
    past: Past, leaves: list[str], stays: bool
) -> None:
    """Its recipe names them, and begins with them again for new clips."""
    first, second = two_versions(past)
    fork_from(past, second, first, days=60)
    past.cache(8, days=50)
    gone = sweep(past, leaves)
    assert (f"runs/{first}/outcome.json" not in gone) is stays
    assert (f"adapters/{adapter_of(first)}/{ADAPTER_FILE}" not in gone) is stays


def test_a_finished_run_that_no_version_here_names_stays(past: Past) -> None:
    """Its version may be in another registry, or registering it may have failed."""
    _, index = past.cache(1, days=90)
    past.train(index, days=90)
    past.cache(8, days=60)
    assert not sweep(past)


def test_a_decision_that_is_made_meanwhile_ends_the_sweep(past: Past) -> None:
    two_versions(past)
    before, (_, found) = listing(past.store), sorted_out(past, ["tiny version 1"])
    past.write("registry/tiny/1763784941000/hands/00000001-0123456789ab")
    prune.remove(
        past.store, found.removable[:1], before, on_progress=lambda _d, _t: None, decisions=True
    )
    past.write("registry/tiny/1763784941000/00000001.json")
    with pytest.raises(TransientError, match="prune again"):
        prune.remove(
            past.store, found.removable, before, on_progress=lambda _d, _t: None, decisions=True
        )
    assert len(before.keys() - listing(past.store).keys()) == 1
