"""The discrepancy equals its definition, and is zero on average where nothing differs."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import pairwise

from cogvx.metrics.mmd import MMD_FROM_ROWS, discrepancy


def rows(seed, count=40, *, shift=0.0, width=16):
    """Features whose dimensions matter less and less, as learned ones do."""
    scale = 1.0 / np.sqrt(np.arange(1, width + 1))
    return np.random.default_rng(seed).normal(shift, scale, size=(count, width))


def kernel_of(name, pooled):
    if name == "polynomial":
        return pairwise.polynomial_kernel(pooled, degree=3, gamma=1 / pooled.shape[1], coef0=1)
    middle = np.median([np.linalg.norm(a - b) for a, b in itertools.combinations(pooled, 2)])
    return pairwise.rbf_kernel(pooled, gamma=1 / (2 * middle**2))


def defined(kernel, count):
    """Lemma 6, pair by pair."""
    one, two = range(count), range(count, len(kernel))
    within = [
        np.mean([kernel[i, j] for i, j in itertools.permutations(side, 2)]) for side in (one, two)
    ]
    return sum(within) - 2 * np.mean([kernel[i, j] for i in one for j in two])


@pytest.mark.parametrize("kernel", ["polynomial", "rbf"])
def test_it_is_the_definition_over_scikit_learns_kernels(kernel):
    ours, theirs = rows(1, 33), rows(2, 47, shift=0.2)
    found = discrepancy(ours, theirs, kernel=kernel)
    expected = defined(kernel_of(kernel, np.concatenate([ours, theirs])), len(ours))
    assert found.squared == pytest.approx(expected, rel=1e-9)
    assert found == discrepancy(ours, theirs, kernel=kernel)


@pytest.mark.parametrize("kernel", ["polynomial", "rbf"])
def test_p_is_scipys_permutation_test(kernel):
    ours, theirs = rows(3, 32), rows(4, 36, shift=0.12)
    table = kernel_of(kernel, np.concatenate([ours, theirs]))

    def statistic(one, two):
        one, two = one.astype(int), two.astype(int)
        first, second, both = (
            table[np.ix_(one, one)],
            table[np.ix_(two, two)],
            table[np.ix_(one, two)],
        )
        n, m = len(one), len(two)
        within = (first.sum() - np.trace(first)) / (n * (n - 1))
        within += (second.sum() - np.trace(second)) / (m * (m - 1))
        return within - 2 * both.mean()

    reference = stats.permutation_test(
        (np.arange(32.0), np.arange(32.0, 68.0)),
        statistic,
        n_resamples=1999,
        alternative="greater",
        vectorized=False,
        rng=np.random.default_rng(5),
    )
    found = discrepancy(ours, theirs, kernel=kernel)
    assert found.squared == pytest.approx(reference.statistic, rel=1e-9)
    assert found.p == pytest.approx(reference.pvalue, abs=0.04)


@pytest.mark.parametrize("kernel", ["polynomial", "rbf"])
def test_equal_distributions_give_zero_on_average_and_a_uniform_p(kernel):
    found = [discrepancy(rows(n), rows(1000 + n), kernel=kernel) for n in range(120)]
    squared = [each.squared for each in found]
    assert abs(np.mean(squared)) < 3 * np.std(squared) / np.sqrt(len(squared))
    assert stats.kstest([each.p for each in found], "uniform").pvalue > 0.01
    assert np.mean([each.p <= 0.05 for each in found]) <= 0.09


@pytest.mark.parametrize("kernel", ["polynomial", "rbf"])
def test_a_shift_is_found_and_the_more_surely_the_more_clips(kernel):
    shares = []
    for count in (32, 64, 128):
        pairs = [(rows(n, count), rows(500 + n, count, shift=0.15)) for n in range(15)]
        shares.append(np.mean([discrepancy(*pair, kernel=kernel).p <= 0.05 for pair in pairs]))
    assert shares == sorted(shares)
    assert shares[-1] >= 0.95


def test_few_clips_say_nothing_and_features_of_two_encoders_are_refused():
    few, enough = rows(1, MMD_FROM_ROWS - 1), rows(2, MMD_FROM_ROWS)
    assert discrepancy(few, enough, kernel="rbf") is None
    assert discrepancy(enough, few, kernel="rbf") is None
    assert discrepancy(enough, enough, kernel="rbf").p > 0.9
    assert discrepancy(np.ones((40, 3)), np.ones((40, 3)), kernel="rbf").p == 1.0
    with pytest.raises(ValueError, match="cannot be compared"):
        discrepancy(enough, rows(2, width=8), kernel="rbf")
    with pytest.raises(ValueError, match="not finite"):
        discrepancy(enough, np.full_like(enough, np.nan), kernel="rbf")
