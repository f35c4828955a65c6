"""An adapter teaches the carried model what it did not know, and spoils little; two add up."""

import pytest

from cogvx.model.nano.carried import carried_nano
from tests.promises.teaching import TAUGHT, Shares, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Shares:
    return run(tmp_path_factory.mktemp("teaching"), base=carried_nano())


@pytest.mark.parametrize("topic", TAUGHT)
def test_the_taught_trait_appears(topic: str, shares: Shares) -> None:
    assert shares[topic]["base"][topic] < 0.1
    assert shares[topic][topic][topic] > 0.6


@pytest.mark.parametrize("topic", TAUGHT)
@pytest.mark.parametrize("trait", ["colour", "motion"])
def test_what_was_not_taught_stays(topic: str, trait: str, shares: Shares) -> None:
    assert shares["untaught"][topic][trait] > shares["untaught"]["base"][trait] - 0.1


def test_two_adapters_together_show_both(shares: Shares) -> None:
    together = shares["both"]
    assert together["both"]["both"] > 0.5
    for alone in ("base", *TAUGHT):
        assert together[alone]["both"] < 0.1
