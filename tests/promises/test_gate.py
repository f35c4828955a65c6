"""The gate on real adapters: a good one passes, and none of the bad ones does."""

from collections.abc import Iterator, Mapping

import pytest

from cogvx.check import check_file
from cogvx.digest import sha256_file
from cogvx.evaluation.documents import ArmResult, Verdict
from cogvx.evaluation.judge import judge
from cogvx.evaluation.render import AdapterAtWeight, Arm
from cogvx.evaluation.suite import Suite, load_suite
from cogvx.model.nano.carried import carried_nano
from cogvx.model.nano.teach import render_lessons
from tasks.ingest import survey_clips
from tasks.measure import measure_arms
from tasks.settings import settings
from tasks.workbench import open_workbench
from tests.fixtures.bad_adapters import doubled, overcooked, untrained
from tests.fixtures.chain import ROOT, train_on

pytestmark = pytest.mark.slow

BAD = ("untrained", "overcooked", "doubled")


@pytest.fixture(scope="module")
def suite() -> Suite:
    return load_suite(ROOT / "deployments" / "suites" / "nano.toml")


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, suite: Suite
) -> Iterator[Mapping[str, ArmResult]]:
    """Base, a good adapter and the bad ones, all under the demo's suite, by the arms' names."""
    work, base = tmp_path_factory.mktemp("gate"), carried_nano()
    render_lessons(work / "clips", "neon", clips=30)
    good = train_on(work / "clips", work / "good", name="good", base=base)
    adapters = {
        "good": good,
        "untrained": untrained(base, work / "untrained"),
        "overcooked": overcooked(base, work / "overcooked"),
        "doubled": doubled(good, work / "doubled"),
    }
    arms = [Arm("base")] + [
        Arm(name, (AdapterAtWeight(sha256_file(path), path),)) for name, path in adapters.items()
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGVX_HOME", str(work / "good" / "home"))
        patch.chdir(ROOT)
        settings.cache_clear()
        bench = open_workbench(check_file(work / "good" / "recipe.toml").recipe)
        results = measure_arms(bench, arms, suite, survey_clips.fn(bench))
        yield {arm.arm.name: arm.result for arm in results}
    settings.cache_clear()


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


def test_an_untrained_adapter_does_not_even_beat_the_base(
    measured: Mapping[str, ArmResult], suite: Suite
) -> None:
    assert verdict(measured, suite, "untrained", "base").outcome != "PROMOTE"
