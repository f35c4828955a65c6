"""Retention beside a real MLflow: what leaves the store, what stays, and what people are told."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvx.adapters.card import ADAPTER_FILE
from cogvx.check import check_file
from cogvx.digest import sha256_file
from cogvx.errors import ConfigError
from cogvx.housekeeping.names import kind_of
from cogvx.recipe import Recipe
from cogvx.store import LocalStore
from tasks.clients.registry import CHALLENGER, CHAMPION, PREVIOUS_CHAMPION, Reason, Registry
from tasks.clients.versions import KEEP_TAG, SWEPT_TAG
from tasks.keeping.housekeeping_documents import RetentionReport, VersionFate
from tasks.keeping.retention import sweep_store
from tasks.keeping.retention_marks import Marks
from tasks.settings import settings
from tasks.training.register import open_registry
from tasks.workbench import Workbench, open_workbench
from tests.fixtures.nights import cached_home, keep_trained

DAY = 86_400.0
NAME = "tiny"
CHAMPIONS, CHALLENGES, OLD, PINNED = (1, 2), 5, 3, 4


@pytest.fixture(scope="module")
def root(
    tmp_path_factory: pytest.TempPathFactory, nano_base: Path, world_clips: Path
) -> Iterator[Path]:
    """Five versions, made a year ago as far as the store tells; newer clips came since."""
    root = tmp_path_factory.mktemp("retention")
    with cached_home(root, nano_base, world_clips) as recipe:
        for number in range(1, 6):
            register(check_file(recipe).recipe, nano_base, steps=number)
        bench = open_bench(root)
        registry = open_registry(bench)
        for champion, before in ((1, None), (2, 1)):
            registry.promote(NAME, champion, expected_champion=before, reason=Reason("better"))
        registry.tag_version(NAME, PINNED, {KEEP_TAG: "shown at the fair"})
        manifest = bench.latest_manifest()
        bench.shelf.publish(manifest.model_copy(update={"clips": manifest.clips[:-1]}))
        age(bench, days=365)
        yield root


def register(recipe: Recipe, base: Path, *, steps: int) -> None:
    """A version as a night leaves it, but for the training: the adapter is a toy."""
    train_part = recipe.train.model_copy(update={"steps": 8 + steps})
    bench = open_workbench(recipe.model_copy(update={"train": train_part}))
    keep_trained(bench, base, steps=steps)


def open_bench(root: Path) -> Workbench:
    return open_workbench(check_file(root / "recipe.toml").recipe)


def age(bench: Workbench, *, days: float) -> None:
    assert isinstance(bench.store, LocalStore)
    then = time.time() - days * DAY
    for info in list(bench.store.entries()):
        os.utime(bench.store.root / info.key, (then, then))


@pytest.fixture
def bench(root: Path) -> Workbench:
    return open_bench(root)


@pytest.fixture
def registry(bench: Workbench) -> Registry:
    return open_registry(bench)


def sweep(
    *,
    apply: bool,
    grace_days: float = 7,
    keep_days: float = 0,
    keep_last: int = 0,
    begun_with: frozenset[str] = frozenset(),
) -> RetentionReport:
    return sweep_store.fn(
        apply=apply,
        keep_days=keep_days,
        grace_days=grace_days,
        keep_last=keep_last,
        begun_with=lambda: begun_with,
    )


def fates(report: RetentionReport) -> dict[str, VersionFate]:
    return {fate.name: fate for fate in report.versions}


def objects(bench: Workbench) -> set[str]:
    return {info.key for info in bench.store.entries()}


def adapter_in_store(bench: Workbench, registry: Registry, number: int) -> bool:
    sha256 = registry.version(NAME, number).tags["cogvx.adapter"]
    return bench.store.info(f"adapters/{sha256}/{ADAPTER_FILE}") is not None


def test_a_dry_run_says_what_would_go_in_the_end_and_writes_nothing(bench: Workbench) -> None:
    before = objects(bench)
    report = sweep(apply=False)
    assert objects(bench) == before
    found = fates(report)
    assert {name: fate.why for name, fate in found.items() if fate.stays} == {
        f"{NAME} version 1": "it is previous_champion",
        f"{NAME} version 2": "it is champion",
        f"{NAME} version {PINNED}": "a person pinned it",
        f"{NAME} version {CHALLENGES}": "it is challenger",
    }
    leaves = found[f"{NAME} version {OLD}"]
    assert leaves.bytes > 0
    kinds = {going.kind for going in report.goes if OLD_WORDS in going.why}
    assert kinds == {"runs", "adapters"}
    assert all(going.objects >= len(going.examples) > 0 for going in report.goes)


OLD_WORDS = f"only {NAME} version {OLD} needed it"


def test_young_versions_and_the_last_of_a_model_stay(bench: Workbench) -> None:
    report = sweep(apply=False, keep_days=30)
    assert fates(report)[f"{NAME} version {OLD}"].why == "it was made or judged within 30 days"
    last = sweep(apply=False, keep_last=3)
    assert fates(last)[f"{NAME} version {OLD}"].why == f"it is among the last 3 of {NAME}"


def test_a_version_that_a_deployed_recipe_begins_with_stays(
    bench: Workbench, registry: Registry
) -> None:
    run = registry.version(NAME, OLD).tags["cogvx.run"]
    report = sweep(apply=False, begun_with=frozenset({run}))
    fate = fates(report)[f"{NAME} version {OLD}"]
    assert fate.stays
    assert "a recipe that is deployed" in fate.why
    assert not [going for going in report.goes if OLD_WORDS in going.why]


def test_the_first_sweep_marks_and_a_person_can_still_pin(
    bench: Workbench, registry: Registry
) -> None:
    report = sweep(apply=True)
    fate = fates(report)[f"{NAME} version {OLD}"]
    assert fate.stays
    assert KEEP_TAG in fate.why
    assert fate.leaves == time.strftime("%Y-%m-%d", time.gmtime(time.time() + 7 * DAY))
    assert adapter_in_store(bench, registry, OLD)
    assert not [going for going in report.goes if OLD_WORDS in going.why]
    registry.tag_version(NAME, OLD, {KEEP_TAG: "true"})
    assert fates(sweep(apply=True))[f"{NAME} version {OLD}"].why == "a person pinned it"
    marks = Marks.model_validate_json(bench.store.read("retention/marks.json"))
    assert not marks.since
    registry.tag_version(NAME, OLD, {KEEP_TAG: "false"})


def test_after_the_grace_it_leaves_and_the_registry_still_has_it(
    bench: Workbench, registry: Registry, tmp_path: Path
) -> None:
    sweep(apply=True)
    marks = json.loads(bench.store.read("retention/marks.json"))
    marks["since"] = {name: since - 8 * DAY for name, since in marks["since"].items()}
    bench.store.write("retention/marks.json", json.dumps(marks).encode())
    before = objects(bench)
    report = sweep(apply=True)
    gone = before - objects(bench)
    assert {kind_of(key) for key in gone} >= {"runs", "adapters"}
    assert report.applied
    assert not adapter_in_store(bench, registry, OLD)
    assert SWEPT_TAG in registry.version(NAME, OLD).tags
    assert all(adapter_in_store(bench, registry, n) for n in (*CHAMPIONS, PINNED, CHALLENGES))
    # MLflow's own copy is none of the store's
    file = registry.download(NAME, OLD, tmp_path / "old")
    assert sha256_file(file) == registry.version(NAME, OLD).tags["cogvx.adapter"]
    assert registry.aliases(NAME) == {CHAMPION: 2, PREVIOUS_CHAMPION: 1, CHALLENGER: CHALLENGES}
    again = sweep(apply=True)
    assert not [going for going in again.goes if OLD_WORDS in going.why]


def test_an_mlflow_that_knows_nothing_of_the_store_sweeps_nothing(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = objects(bench)
    monkeypatch.setenv("COGVX_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    settings.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"nothing is pruned.*knows none"):
            sweep(apply=True, grace_days=0)
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    assert objects(bench) == before
