"""How often the rule errs, and how often it finds what is there: arms whose truth is known."""

import sys

import pytest
from scipy import stats

from cogvx.evaluation import statistics
from cogvx.evaluation.power import power, unit_spread
from tests.evaluation.simulation import BETWEEN, WITHIN, Truth, outcomes


@pytest.fixture(autouse=True)
def without_the_bootstrap(monkeypatch):
    """It decides nothing, and takes nine tenths of the time."""
    monkeypatch.setattr(statistics, "BCA_FROM_UNITS", sys.maxsize)


def is_at_most(share, limit, runs):
    """Whether a share may come from a chance of `limit` or less."""
    count = round(share * runs)
    return stats.binomtest(count, runs, limit, alternative="greater").pvalue > 0.01


def test_what_is_equal_waits_and_what_is_harmed_is_refused_in_a_few_draws():
    equal = outcomes(Truth(prompts=16, seeds=2), runs=40)
    assert is_at_most(equal["PROMOTE"], 0.025, 40)
    assert equal["HOLD"] >= 0.9
    better = outcomes(Truth(16, 2, gain=2.5), runs=20)
    assert better["PROMOTE"] >= 0.5  # six guards hold some of it back with so few prompts
    assert better["REJECT"] == 0.0
    harmed = outcomes(Truth(16, 2, gain=2.5, worst_guard=-2.0), runs=20)
    assert harmed["PROMOTE"] == 0.0
    assert harmed["REJECT"] >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_is_equal_is_promoted_once_in_forty_at_most():
    runs = 400
    found = outcomes(Truth(prompts=20, seeds=2), runs=runs)
    assert is_at_most(found["PROMOTE"], 0.025, runs)
    assert found["HOLD"] >= 0.93
    assert found["INVALID"] == 0.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("prompts", "seeds", "gain", "expected"),
    [(20, 2, 0.6, 0.72), (20, 4, 0.6, 0.84), (40, 2, 0.6, 0.96), (20, 2, 1.0, 0.97)],
)
def test_what_is_better_is_found_as_often_as_its_power_says(prompts, seeds, gain, expected):
    """Six guards that were not touched cost up to 0.07: their margin is a whole seed SD."""
    runs = 200
    found = outcomes(Truth(prompts, seeds, gain=gain), runs=runs, seed=prompts + seeds)
    said = power(gain, unit_spread(BETWEEN, WITHIN, seeds), units=prompts, confidence=0.975)
    assert said == pytest.approx(expected, abs=0.02)
    assert found["PROMOTE"] == pytest.approx(said, abs=0.1)
    assert found["REJECT"] <= 0.02


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_gain_does_not_pay_for_a_broken_guard():
    found = outcomes(Truth(20, 2, gain=1.0, worst_guard=-1.5), runs=200)
    assert found["PROMOTE"] == 0.0
    assert found["REJECT"] >= 0.95
