"""What so many prompts and seeds can find: the formula, scipy's, and simulation agree."""

import numpy as np
import pytest
from scipy import stats

from cogvx.evaluation import statistics
from cogvx.evaluation.power import minimum_detectable_effect, power, unit_spread


@pytest.mark.parametrize("units", [8, 20, 40])
@pytest.mark.parametrize("confidence", [0.975, 0.9875])
def test_an_effect_of_that_size_is_found_in_four_cases_of_five(units, confidence):
    between, within, seeds, runs = 0.7, 1.0, 2, 4000
    spread = unit_spread(between, within, seeds)
    effect = minimum_detectable_effect(spread, units=units, confidence=confidence)
    rng = np.random.default_rng(units)
    gains = effect + rng.normal(0, between, (runs, units))
    gains += rng.normal(0, within, (runs, units, seeds)).mean(2)
    found = np.mean([statistics.mean_of(row).interval(confidence).low > 0 for row in gains])
    assert found == pytest.approx(0.8, abs=0.02)
    assert power(effect, spread, units=units, confidence=confidence) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("units", [2, 3, 8, 60])
def test_without_an_effect_the_power_is_the_error_that_was_allowed(units):
    assert power(0.0, 1.0, units=units, confidence=0.975) == pytest.approx(0.025)
    assert power(0.5, 2.0, units=units, confidence=0.9) == pytest.approx(
        stats.nct.sf(stats.t.ppf(0.9, units - 1), units - 1, 0.25 * np.sqrt(units))
    )


@pytest.mark.parametrize("units", [8, 20, 100])
def test_it_is_the_sum_of_two_quantiles_to_a_hundredth(units):
    quantiles = stats.t.ppf([0.975, 0.8], units - 1).sum() / np.sqrt(units)
    found = minimum_detectable_effect(3.0, units=units, confidence=0.975)
    assert found == pytest.approx(3.0 * quantiles, rel=0.01)


def test_prompts_are_worth_more_than_seeds():
    """The same 60 videos an arm, in four ways; SDs of seeds."""
    found = [
        minimum_detectable_effect(
            unit_spread(np.sqrt(0.5), 1.0, seeds), units=prompts, confidence=0.975
        )
        for prompts, seeds in ((60, 1), (30, 2), (20, 3), (12, 5))
    ]
    assert found == pytest.approx([0.45, 0.53, 0.60, 0.74], abs=0.005)


def test_where_nothing_varies_anything_is_found_and_one_unit_finds_nothing():
    assert minimum_detectable_effect(0.0, units=5, confidence=0.975) == 0.0
    assert minimum_detectable_effect(1.0, units=1, confidence=0.975) is None
