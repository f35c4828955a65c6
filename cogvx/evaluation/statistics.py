"""Paired statistics: the prompt (or the held-out clip) is the unit, never the single video.

Seeds of one prompt resemble each other, so an interval over videos covers 70 % where it promises
95 %; differences are averaged over the seeds of a prompt first. The t-interval decides; BCa and
Wilcoxon stand beside it as second opinions and decide nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts load on first use, and scipy.stats takes a second

BCA_FROM_UNITS = 20
_BCA_RESAMPLES = 9999
_BCA_SEED = 20240812


def allowed_over(values: int, *, clips: int, above: int, confidence: float) -> int:
    """How many of `values` may lie over what held-out clips reach, before it is more than luck.

    Values that are exchangeable with those of the clips lie over a limit that `above` of `clips`
    lie over in BetaBinomial(values, above + 1, clips - above) cases, whatever their distribution:
    exactly so where the limit is itself the value of a clip, and in fewer where it lies above one.
    One case more than this has a probability below 1 - `confidence`.

    Source: Wilks, Statistical prediction with special reference to the problem of tolerance limits,
    1942; the negative hypergeometric law of exceedances.
    """
    law = scipy.stats.betabinom(values, above + 1, max(clips - above, 1))
    at_least = law.sf(np.arange(values + 1) - 1)
    return int(np.count_nonzero(at_least >= 1.0 - confidence)) - 1


@dataclass(frozen=True)
class Interval:
    """A two-sided interval; each side holds with the one-sided `confidence`."""

    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class Mean:
    """An estimated mean with the standard error and degrees of freedom of its t-distribution."""

    value: float
    error: float
    freedom: float

    def interval(self, confidence: float) -> Interval:
        """Bounds that each hold with `confidence`, so 0.975 gives the usual 95 % interval."""
        reach = 0.0
        if self.error:
            reach = float(scipy.stats.t.ppf(confidence, self.freedom)) * self.error
        return Interval(self.value - reach, self.value + reach, confidence)


def paired_differences(
    reference: Mapping[tuple[str, int], float], candidate: Mapping[tuple[str, int], float]
) -> dict[str, float]:
    """Candidate minus reference per unit, averaged over what is common inside a unit.

    Keys are (unit, repeat): (prompt, seed), or (clip, timestep) for the held-out loss.

    Raises:
        ValueError: The arms were not measured on the same keys, so nothing is paired.
    """
    if reference.keys() != candidate.keys():
        raise ValueError("the arms were measured on different prompts, seeds, clips or timesteps")
    return by_unit({key: candidate[key] - value for key, value in reference.items()})


def by_unit(values: Mapping[tuple[str, int], float]) -> dict[str, float]:
    """Mean of each unit over its repeats, in the order in which units first occur."""
    return {unit: float(np.mean(found)) for unit, found in grouped(values).items()}


def mean_of(values: Sequence[float]) -> Mean | None:
    """Mean over units, or None below two units, where no spread is known.

    Source: Student's t; equals `scipy.stats.ttest_1samp(values, 0).confidence_interval()`.
    """
    if len(values) < 2:
        return None
    data = np.asarray(values, dtype=np.float64)
    error = float(data.std(ddof=1)) / math.sqrt(len(data))
    return Mean(float(data.mean()), error, len(data) - 1)


def weighted_sum(parts: Sequence[tuple[float, Mean]]) -> Mean:
    """Sum of independent means, such as one over prompts and one over clips.

    Source: Welch-Satterthwaite for the degrees of freedom.
    """
    value = sum(weight * mean.value for weight, mean in parts)
    variances = [(weight * mean.error) ** 2 for weight, mean in parts]
    total = sum(variances)
    if total == 0.0:
        return Mean(value, 0.0, min(mean.freedom for _, mean in parts))
    rest = sum(
        variance**2 / mean.freedom for variance, (_, mean) in zip(variances, parts, strict=True)
    )
    return Mean(value, math.sqrt(total), total**2 / rest)


def bca_interval(values: Sequence[float], confidence: float) -> Interval | None:
    """Bias-corrected accelerated bootstrap over units; None where it is not to be trusted.

    Below 20 units it covers too little, and without spread it is undefined. Seeded, so that a
    report is the same each time it is made.

    Source: `scipy.stats.bootstrap`, method BCa.
    """
    if len(values) < BCA_FROM_UNITS or np.ptp(values) == 0:
        return None
    found = scipy.stats.bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        n_resamples=_BCA_RESAMPLES,
        confidence_level=2 * confidence - 1,
        method="BCa",
        rng=np.random.default_rng(_BCA_SEED),
    ).confidence_interval
    return Interval(float(found.low), float(found.high), confidence)


def wilcoxon_p(values: Sequence[float]) -> float | None:
    """Two-sided signed-rank p; None below six units, where it cannot fall under 0.05."""
    if len(values) < 6 or not np.any(values):
        return None
    return float(scipy.stats.wilcoxon(np.asarray(values, dtype=np.float64)).pvalue)


def pooled_seed_sd(values: Mapping[tuple[str, int], float]) -> float | None:
    """SD over seeds inside a prompt, pooled over prompts: how much luck alone moves a video.

    None when no prompt has two seeds.
    """
    squares, freedom = 0.0, 0
    for found in grouped(values).values():
        squares += float(np.var(found)) * len(found)
        freedom += len(found) - 1
    return math.sqrt(squares / freedom) if freedom else None


def unit_sd(values: Mapping[tuple[str, int], float]) -> float | None:
    """SD between units, such as held-out clips; None below two."""
    means = list(by_unit(values).values())
    return float(np.std(means, ddof=1)) if len(means) > 1 else None


def grouped(values: Mapping[tuple[str, int], float]) -> dict[str, list[float]]:
    """The repeats of each unit, in the order in which units first occur."""
    groups: dict[str, list[float]] = {}
    for (unit, _), value in values.items():
        groups.setdefault(unit, []).append(value)
    return groups
