"""How large an effect must be to be found: what so many prompts and seeds are worth beforehand.

A verdict of HOLD means little until one knows what it could have seen. More prompts help more than
more seeds, as seeds average away luck and leave what differs from prompt to prompt.
"""

import math

import scipy  # its parts load on first use

from cogvx.evaluation.statistics import Mean

USUAL_POWER = 0.8
USUAL_BETWEEN = 0.7
"""How much prompts usually differ in what they gain, in seed SDs; for plans, before any is seen."""


def unit_spread(between: float, within: float, repeats: int) -> float:
    """SD of the paired difference of one unit, in the unit of both SDs.

    Args:
        between: SD between units of the effect itself, as some prompts gain more than others.
        within: SD of the difference of a single pair of videos inside a unit.
        repeats: Seeds of each unit.
    """
    return math.hypot(between, within / math.sqrt(repeats))


def power(effect: float, spread: float, *, units: int, confidence: float) -> float:
    """How often the lower bound of a t-interval lies above zero when the truth is `effect`.

    Args:
        effect: True mean of the paired differences.
        spread: Their SD, known or guessed; in the effect's unit, above 0.
        units: Prompts or clips, at least two.
        confidence: Of the one-sided bound. At an effect of 0 the answer is 1 - confidence.

    Source: noncentral t with `units - 1` degrees of freedom and `effect sqrt(units) / spread`.
    """
    critical = scipy.stats.t.ppf(confidence, units - 1)
    shift = effect * math.sqrt(units) / spread
    return float(scipy.stats.nct.sf(critical, units - 1, shift))


def minimum_detectable_effect(
    spread: float, *, units: int, confidence: float, wanted: float = USUAL_POWER
) -> float | None:
    """The smallest true effect that is found in a share `wanted` of all evaluations.

    In the unit of `spread`, the SD of the paired differences; None below two units, which have no
    interval.
    """
    if units < 2:
        return None
    return detectable_effect(Mean(0.0, spread / math.sqrt(units), units - 1), confidence, wanted)


def detectable_effect(seen: Mean, confidence: float, wanted: float = USUAL_POWER) -> float:
    """As `minimum_detectable_effect`, with the error and degrees of freedom that were seen.

    Source: the noncentral t of `power`, solved for its shift; from 8 units on, that is
    (t_confidence + t_wanted) spread / sqrt(units) to 1 %.
    """
    critical = scipy.stats.t.ppf(confidence, seen.freedom)
    return float(scipy.special.nctdtrinc(seen.freedom, 1.0 - wanted, critical)) * seen.error
