"""Intervals equal scipy's, and cover what they promise."""

import numpy as np
import pytest
from scipy import stats

from cogvx.evaluation import statistics


def test_the_interval_is_students():
    values = np.random.default_rng(3).normal(1, 2, size=12)
    interval = statistics.mean_of(values).interval(0.975)
    reference = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert interval.low == pytest.approx(reference.low, rel=1e-12)
    assert interval.high == pytest.approx(reference.high, rel=1e-12)


def test_a_single_unit_has_no_interval():
    assert statistics.mean_of([1.0]) is None


def test_differences_are_averaged_over_seeds_before_anything_else():
    reference = {("a", 1): 1.0, ("a", 2): 3.0, ("b", 1): 5.0, ("b", 2): 5.0}
    candidate = {("b", 2): 6.0, ("b", 1): 8.0, ("a", 1): 2.0, ("a", 2): 3.0}
    assert statistics.paired_differences(reference, candidate) == {"a": 0.5, "b": 2.0}


def test_arms_measured_on_different_videos_are_not_paired():
    with pytest.raises(ValueError, match="different prompts"):
        statistics.paired_differences({("a", 1): 1.0}, {("a", 2): 1.0})


@pytest.mark.parametrize("units", [8, 20, 40])
def test_the_interval_over_prompts_covers_what_it_promises(units):
    rng, runs, hits = np.random.default_rng(units), 1500, 0
    for _ in range(runs):
        prompts = rng.normal(0.3, 1.0, size=(units, 1)) + rng.normal(0, 1.0, size=(units, 2))
        candidate = {
            (str(unit), seed): float(prompts[unit, seed])
            for unit in range(units)
            for seed in (0, 1)
        }
        gains = statistics.paired_differences(dict.fromkeys(candidate, 0.0), candidate)
        interval = statistics.mean_of(list(gains.values())).interval(0.975)
        hits += interval.low <= 0.3 <= interval.high
    assert 0.93 <= hits / runs <= 0.97


def test_the_pooled_seed_sd_is_the_anova_one():
    rng = np.random.default_rng(5)
    table = rng.normal(size=(6, 3)) + rng.normal(0, 10, size=(6, 1))
    values = {(str(p), s): float(table[p, s]) for p in range(6) for s in range(3)}
    expected = np.sqrt(table.var(axis=1, ddof=1).mean())
    assert statistics.pooled_seed_sd(values) == pytest.approx(expected)
    assert statistics.pooled_seed_sd({("a", 1): 1.0, ("b", 1): 2.0}) is None


def test_bca_stands_beside_from_20_units_on_and_repeats_itself():
    values = np.random.default_rng(2).gamma(2.0, size=24)
    assert statistics.bca_interval(values[:19], 0.975) is None
    assert statistics.bca_interval([1.0] * 30, 0.975) is None
    interval = statistics.bca_interval(values, 0.975)
    assert interval == statistics.bca_interval(values, 0.975)
    reference = stats.bootstrap(
        (values,), np.mean, method="BCa", random_state=1
    ).confidence_interval
    assert interval.low == pytest.approx(reference.low, abs=0.1)
    assert interval.high == pytest.approx(reference.high, abs=0.1)


def test_bca_is_efrons_written_out():
    values = np.random.default_rng(4).gamma(1.5, size=30)
    rng, draws = np.random.default_rng(9), 40_000
    means = values[rng.integers(0, 30, (draws, 30))].mean(1)
    bias = stats.norm.ppf(np.mean(means < values.mean()))
    left_out = (values.sum() - values) / 29
    away = left_out.mean() - left_out
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    reach = bias + stats.norm.ppf([0.025, 0.975])
    shares = stats.norm.cdf(bias + reach / (1 - acceleration * reach))
    expected = np.quantile(means, shares)
    interval = statistics.bca_interval(values, 0.975)
    assert [interval.low, interval.high] == pytest.approx(expected, abs=0.03)
    plain = np.quantile(means, [0.025, 0.975])
    assert abs(interval.high - expected[1]) < abs(interval.high - plain[1])


def test_wilcoxon_is_silent_where_it_cannot_say_anything():
    values = np.random.default_rng(2).normal(1, 1, size=10)
    assert statistics.wilcoxon_p(values[:5]) is None
    assert statistics.wilcoxon_p(values) == pytest.approx(stats.wilcoxon(values).pvalue)


def test_a_sum_of_two_means_is_welchs():
    rng = np.random.default_rng(8)
    one, two = rng.normal(0, 1, size=9), rng.normal(1, 3, size=14)
    total = statistics.weighted_sum(
        [(1.0, statistics.mean_of(one)), (-1.0, statistics.mean_of(two))]
    )
    reference = stats.ttest_ind(one, two, equal_var=False).confidence_interval(0.95)
    interval = total.interval(0.975)
    assert interval.low == pytest.approx(reference.low)
    assert interval.high == pytest.approx(reference.high)


@pytest.mark.parametrize("clips", [12, 100, 1000])
@pytest.mark.parametrize("alike", [False, True])
def test_a_sound_adapter_is_over_what_held_out_clips_reach_by_luck_alone(clips, alike):
    """Its 40 videos are as near as the clips are; two seeds of a prompt may be one video."""
    rng = np.random.default_rng([clips, alike])
    evaluations, prompts = 1000, 20
    reached = rng.normal(size=(evaluations, clips))
    limit = np.percentile(reached, 99, axis=1, keepdims=True)
    above = (reached > limit).sum(axis=1)
    videos = rng.normal(size=(evaluations, prompts, 2))
    if alike:
        videos[..., 1] = videos[..., 0]
    over = (videos > limit[..., None]).any(axis=2).sum(axis=1)
    allowed = {
        int(m): statistics.allowed_over(2 * prompts, clips=clips, above=int(m), confidence=0.95)
        for m in set(above)
    }
    rejected = over > np.array([allowed[int(m)] for m in above])
    assert rejected.mean() <= 0.06
    assert (over > 0).mean() > 0.2, "one video over it would have rejected many more"
    assert max(allowed.values()) < prompts, "who is over it everywhere is rejected"


def test_one_more_than_allowed_is_rarer_than_the_error():
    """The law of exceedances, from ranks alone: k of n above the limit, drawn by enumeration."""
    n, clips, above, draws = 6, 9, 1, 200_000
    ranks = np.random.default_rng(5).random((draws, clips + n))
    limit = np.sort(ranks[:, :clips], axis=1)[:, clips - 1 - above, None]
    over = (ranks[:, clips:] > limit).sum(axis=1)
    for confidence in (0.9, 0.95, 0.99):
        allowed = statistics.allowed_over(n, clips=clips, above=above, confidence=confidence)
        assert (over > allowed).mean() < 1.05 * (1 - confidence)
        assert (over >= allowed).mean() > 1 - confidence
