"""The rule written again in numpy, fast enough to be asked twenty thousand times."""

import sys

import numpy as np
import pytest
from scipy import stats

from cogvx.evaluation import statistics
from cogvx.evaluation.gate import Evidence, decide
from tests.evaluation.simulation import (
    BETWEEN,
    GUARDS,
    PRIMARY,
    TOGETHER,
    Truth,
    contest_of,
    first_seeds,
)

NAMES = (PRIMARY, *GUARDS)
HOLD, PROMOTE, REJECT = 0, 1, -1


def outcomes_of(old, new, confidence):
    """Of each run, from values by run, prompt, seed and metric; the first metric is the primary."""
    gains = (new - old).mean(2)
    mean, error = gains.mean(1), gains.std(1, ddof=1) / np.sqrt(gains.shape[1])
    composite, guards = (
        stats.t.ppf(share, gains.shape[1] - 1) * error for share in (confidence, 0.95)
    )
    margins = np.sqrt(old.var(2, ddof=1).mean(1))
    worse = (mean < -margins)[:, 1:].any(1) | (mean + composite < 0)[:, 0]
    better = (mean - composite > 0)[:, 0] & (mean - guards > -margins)[:, 1:].all(1)
    return np.select([worse, better], [REJECT, PROMOTE], HOLD)


def draws(rng, runs, prompts, gain):
    """As `Truth.draw`, four seeds of many evaluations at once."""
    covariance = np.full((len(NAMES), len(NAMES)), TOGETHER)
    np.fill_diagonal(covariance, 1.0)
    root = np.linalg.cholesky(covariance)

    def scatter(sd, *shape):
        return sd * rng.normal(size=(*shape, len(NAMES))) @ root.T

    shared, own, other = (scatter(np.sqrt(0.5), runs, prompts, 4) for _ in range(3))
    new = shared + own + scatter(BETWEEN, runs, prompts)[:, :, None]
    new[..., 0] += gain
    return shared + other, new


def shares(runs, gain, confidences=(0.975, 0.9875)):
    """Share that is promoted at the first look, and at the second of those that were held."""
    rng, found = np.random.default_rng(3), []
    for _ in range(runs // 1000):
        old, new = draws(rng, 1000, 20, gain)
        first = outcomes_of(old[:, :, :2], new[:, :, :2], confidences[0])
        second = outcomes_of(old, new, confidences[1])
        found.append([(first == PROMOTE).mean(), ((first == HOLD) & (second == PROMOTE)).mean()])
    return np.mean(found, axis=0)


def arrays(measured, arm):
    """One arm of one evaluation by run, prompt, seed and metric."""
    values = [list(getattr(measured[name], arm).values()) for name in NAMES]
    return np.stack([np.reshape(each, (20, 4)) for each in values], axis=-1)[None]


@pytest.mark.parametrize("truth", [Truth(20, 4), Truth(20, 4, gain=0.6), Truth(20, 4, 0.9, -0.8)])
def test_the_rule_decides_as_numpy_does_at_both_looks(truth, monkeypatch):
    monkeypatch.setattr(statistics, "BCA_FROM_UNITS", sys.maxsize)  # it decides nothing
    contest, rng = contest_of(truth), np.random.default_rng(17)
    codes = {"HOLD": HOLD, "PROMOTE": PROMOTE, "REJECT": REJECT}
    for _ in range(8):
        measured = truth.draw(rng)
        old, new = (arrays(measured, arm) for arm in ("reference", "candidate"))
        halves = {name: first_seeds(found, 2) for name, found in measured.items()}
        first = decide(contest, Evidence(halves)).outcome
        second = decide(contest, Evidence(measured, look=2)).outcome
        assert codes[first] == outcomes_of(old[:, :, :2], new[:, :, :2], 0.975)[0]
        assert codes[second] == outcomes_of(old, new, 0.9875)[0]


def test_both_looks_promote_what_is_equal_in_three_and_three_quarters_of_a_hundred_at_most():
    first, second = shares(20_000, gain=0.0)
    assert 0.02 <= first <= 0.0275
    assert second <= 0.0125
    assert first + second <= 0.0375
    stricter = shares(20_000, gain=0.0, confidences=(0.99, 0.995))
    assert stricter.sum() <= 0.015


def test_the_second_look_finds_part_of_what_the_first_had_missed():
    first, second = shares(5_000, gain=0.6)
    assert first == pytest.approx(0.69, abs=0.03)
    assert second == pytest.approx(0.11, abs=0.03)
