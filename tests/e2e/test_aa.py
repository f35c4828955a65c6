"""The base judged against itself, on videos that are really rendered: resumable, never mixed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvx.check import check_file
from cogvx.errors import ConfigError
from cogvx.evaluation.aa import AaReport, AaRun
from cogvx.evaluation.suite import Suite, load_suite
from cogvx.files import read_document
from cogvx.store import LocalStore
from tasks.evaluation.aa import REPORT_FILE, RUNS_FILE, hold_aa
from tasks.settings import settings
from tasks.workbench import Workbench, open_workbench
from tests.e2e.conftest import Place, make_place, write_recipe
from tests.fixtures.forks import Forks

PROMPTS, SEEDS, MORE = 2, 1, 2
BOTH_LOOKS = 2 * PROMPTS * (SEEDS + MORE)
"""Videos of a run that is looked at twice."""


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    nano_base: Path,
    world_clips: Path,
    prefect_url: str,
    forks: Forks,
) -> Iterator[Place]:
    """Clips are cached; nothing is trained."""
    root = tmp_path_factory.mktemp("aa")
    recipe = write_recipe(root / "recipe.toml", clips=str(world_clips), base=nano_base)
    suite = root / "suite.toml"
    suite.write_text(
        suite.read_text().replace('["heldout_loss"]', '["temporal_flickering"]')
        + '[[gate.guards]]\nmetric = "motion_magnitude"\nmargin = 50.0\n'
    )
    place = make_place(root, recipe, PREFECT_API_URL=prefect_url, COGVX_DEVICE="cpu")
    command(forks, place, "cache", recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGVX_HOME", str(place.home))
        patch.setenv("COGVX_DEVICE", "cpu")
        settings.cache_clear()
        yield place
    settings.cache_clear()


@pytest.fixture(scope="module")
def bench(place: Place) -> Workbench:
    return open_workbench(check_file(place.recipe).recipe, purpose="judge")


@pytest.fixture(scope="module")
def suite(bench: Workbench) -> Suite:
    return load_suite(Path(bench.recipe.evaluation.suite))


def command(forks: Forks, place: Place, *words: object) -> str:
    job = forks.start(
        "tests.fixtures.forks:call_cli",
        *map(str, words),
        environment=place.environment,
        cwd=place.root,
    )
    return job.succeed()


def rendered(place: Place) -> set[str]:
    store = LocalStore(place.home / "store")
    return {info.key for info in store.entries("videos/") if info.key.endswith(".mp4")}


def unwanted(run: AaRun) -> None:
    pytest.fail(f"run {run.run} was held again")


def lines(folder: Path) -> list[bytes]:
    return (folder / RUNS_FILE).read_bytes().splitlines()


@pytest.fixture(scope="module")
def folder(place: Place, bench: Workbench, suite: Suite) -> Path:
    """Two runs, of which the second is held by a second call."""
    folder = place.root / "out"
    manifest = bench.latest_manifest()
    first = hold_aa(bench, suite, manifest, runs=1, folder=folder)
    assert (first.runs, len(lines(folder))) == (1, 1)
    kept, held = lines(folder)[0], list[int]()
    report = hold_aa(
        bench, suite, manifest, runs=2, folder=folder, on_run=lambda run: held.append(run.run)
    )
    assert held == [1]
    assert lines(folder)[0] == kept
    assert read_document(folder / REPORT_FILE, AaReport) == report
    return folder


def test_luck_is_not_promoted_and_every_run_has_videos_of_its_own(
    folder: Path, place: Place
) -> None:
    report = read_document(folder / REPORT_FILE, AaReport)
    assert report.runs == sum(report.outcomes.values()) == 2
    assert report.false_promotions.count == report.outcomes.get("PROMOTE", 0)
    assert report.false_promotions.low <= 0.5 < report.false_promotions.high
    looked = report.second_looks
    once = 2 * PROMPTS * SEEDS
    assert len(rendered(place)) == looked * BOTH_LOOKS + (2 - looked) * once
    scatters = {scatter.metric: scatter for scatter in report.scatters}
    assert scatters["motion_magnitude"].margins == {"motion_magnitude": 50.0}
    assert scatters["heldout_loss"].seed_sd > 0
    runs = [AaRun.model_validate_json(line) for line in lines(folder)]
    assert runs[0].spreads != runs[1].spreads
    assert {run.verdicts[0].candidate for run in runs} == {"base again"}


def test_what_was_held_is_not_held_again(
    folder: Path, place: Place, bench: Workbench, suite: Suite
) -> None:
    before, videos = lines(folder), rendered(place)
    hold_aa(bench, suite, bench.latest_manifest(), runs=2, folder=folder, on_run=unwanted)
    assert lines(folder) == before
    # a run whose line was lost is held again from videos that are there, and comes out the same
    (folder / RUNS_FILE).write_bytes(before[0] + b"\n")
    hold_aa(bench, suite, bench.latest_manifest(), runs=2, folder=folder)
    assert lines(folder) == before
    assert rendered(place) == videos


def test_runs_of_another_suite_are_not_counted_with_these(
    folder: Path, bench: Workbench, suite: Suite
) -> None:
    other = Suite.model_validate(suite.model_dump() | {"seeds": (5,)})
    with pytest.raises(ConfigError, match="runs of another suite"):
        hold_aa(bench, other, bench.latest_manifest(), runs=2, folder=folder)
    (folder.parent / "torn").mkdir()
    (folder.parent / "torn" / RUNS_FILE).write_bytes(b'{"of": \n')
    with pytest.raises(ConfigError, match="is no list of runs"):
        hold_aa(bench, suite, bench.latest_manifest(), runs=2, folder=folder.parent / "torn")


def test_the_command_prints_the_counts_with_their_interval(
    folder: Path, place: Place, forks: Forks
) -> None:
    printed = command(forks, place, "aa", place.recipe, "--out", folder, "--runs", 2)
    assert "base against base, 2 runs of suite tiny" in printed
    assert "of 2 (" in printed
    assert "would have stopped" in printed
    assert "motion_magnitude 50" in printed
    assert str(folder / REPORT_FILE) in printed
