"""The gate on real adapters: a good one passes, and none of the bad ones does."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cogvx.check import check_file
from cogvx.digest import sha256_file
from cogvx.errors import IntegrityError
from cogvx.evaluation.documents import ArmResult, Verdict
from cogvx.evaluation.judge import judge
from cogvx.evaluation.render import Arm
from cogvx.evaluation.suite import Suite, load_suite
from cogvx.inference.batch import AdapterAtWeight
from cogvx.model.nano.carried import carried_nano
from cogvx.model.nano.teach import render_lessons
from tasks.measure import measure_arms
from tasks.settings import settings
from tasks.workbench import Workbench, open_workbench
from tests.fixtures.bad_adapters import doubled, overcooked, untrained
from tests.fixtures.chain import ROOT, home_of, recipe_of, train_on

pytestmark = pytest.mark.slow

BAD = ("overcooked", "doubled")


@pytest.fixture(scope="module")
def suite() -> Suite:
    return load_suite(ROOT / "deployments" / "suites" / "nano.toml")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    """Where a good adapter was trained on the style, with its clips surveyed."""
    work = tmp_path_factory.mktemp("gate")
    render_lessons(work / "clips", "neon", clips=30)
    train_on(work / "clips", work / "good", name="good", base=carried_nano())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGVX_HOME", str(home_of(work / "good")))
        patch.chdir(ROOT)
        settings.cache_clear()
        yield open_workbench(check_file(recipe_of(work / "good", "good")).recipe)
    settings.cache_clear()


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, bench: Workbench, suite: Suite
) -> Mapping[str, ArmResult]:
    """Base, the good adapter and two bad ones under the demo's suite, by the arms' names."""
    work = tmp_path_factory.mktemp("bad")
    (good,) = (bench.settings.home / "store" / "adapters").rglob("*.safetensors")
    adapters = {
        "good": good,
        "overcooked": overcooked(carried_nano(), work / "overcooked"),
        "doubled": doubled(good, work / "doubled"),
    }
    arms = [Arm("base"), *(_arm(name, path) for name, path in adapters.items())]
    results = measure_arms(bench, arms, suite, bench.latest_manifest())
    return {arm.arm.name: arm.result for arm in results}


def _arm(name: str, path: Path) -> Arm:
    return Arm(name, (AdapterAtWeight(sha256_file(path), path),))


def verdict(
    measured: Mapping[str, ArmResult], suite: Suite, candidate: str, reference: str
) -> Verdict:
    report = judge(
        suite,
        model="neon",
        candidate=measured[candidate],
        reference=measured[reference],
        provenance={},
    )
    return report.verdict


def test_a_good_adapter_is_promoted(measured: Mapping[str, ArmResult], suite: Suite) -> None:
    found = verdict(measured, suite, "good", "base")
    assert found.outcome == "PROMOTE", found.reasons


@pytest.mark.parametrize("name", BAD)
def test_no_bad_adapter_replaces_a_good_one(
    name: str, measured: Mapping[str, ArmResult], suite: Suite
) -> None:
    found = verdict(measured, suite, name, "good")
    assert found.outcome != "PROMOTE", found.reasons


def test_an_untrained_adapter_is_refused_before_it_is_measured(
    bench: Workbench, suite: Suite, tmp_path: Path
) -> None:
    arm = _arm("untrained", untrained(carried_nano(), tmp_path))
    with pytest.raises(IntegrityError, match="changes nothing"):
        measure_arms(bench, [arm], suite, bench.latest_manifest())
