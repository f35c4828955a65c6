"""The gate on real adapters: a good one passes, and none of the bad ones does."""

from collections.abc import Iterator, Mapping

import pytest

from tasks.settings import settings
from tests.fixtures.chain import ROOT, home_of
from tests.promises.table import GOOD, judge_all, rules, train_good

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # trains, and renders 100 videos

BAD = ("untrained", "overcooked", "double strength")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[tuple[str, str], str]]:
    """The verdict on one challenger of each kind, under the whole rule and without its screen."""
    out = tmp_path_factory.mktemp("gate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGVX_HOME", str(home_of(out)))
        patch.chdir(ROOT)
        settings.cache_clear()
        judged = judge_all(out, train_good(out, 1))
        yield {(bout.kind, rule): verdict.outcome for bout, rule, verdict in judged}
    settings.cache_clear()


@pytest.mark.parametrize("rule", rules())
def test_a_good_adapter_is_promoted(outcomes: Mapping[tuple[str, str], str], rule: str) -> None:
    assert outcomes[GOOD, rule] == "PROMOTE"


@pytest.mark.parametrize("rule", rules())
@pytest.mark.parametrize("kind", BAD)
def test_no_bad_adapter_replaces_a_good_one(
    outcomes: Mapping[tuple[str, str], str], kind: str, rule: str
) -> None:
    assert outcomes[kind, rule] in ("REJECT", "INVALID")
