"""One metric on two arms: the paired effect, its bounds, and how it stands to its margin."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cogvx.evaluation import statistics
from cogvx.evaluation.documents import Comparison, Effect, Result, Role
from cogvx.evaluation.suite import CeilingConfig, GuardConfig
from cogvx.metrics.metric import Metric


@dataclass(frozen=True)
class Measured:
    """One metric on both arms, keyed by (prompt, seed) or (clip, timestep)."""

    metric: Metric
    reference: Mapping[tuple[str, int], float]
    candidate: Mapping[tuple[str, int], float]
    base: float | None = None

    @property
    def gains(self) -> dict[str, float]:
        """Paired effect of each prompt or clip; positive is better, or more where no side is."""
        sign = self.metric.direction or 1
        found = statistics.paired_differences(self.reference, self.candidate)
        return {unit: sign * difference for unit, difference in found.items()}

    @property
    def yardstick(self) -> float | None:
        """What luck alone moves, from the reference alone; None where unknown or zero.

        A video metric's is the seed SD inside prompts. The held-out loss has no seeds: its is the
        SD between clips, which the candidate cannot shrink. It is large beside the effect, so in a
        mixed composite the generated videos outweigh this proxy.
        """
        if self.metric.kind == "heldout":
            return statistics.unit_sd(self.reference) or None
        return statistics.pooled_seed_sd(self.reference) or None

    @property
    def per(self) -> str:
        """The unit of analysis."""
        return "clip" if self.metric.kind == "heldout" else "prompt"


def effect_of(gains: Mapping[str, float], confidence: float) -> Effect:
    """Summarise paired gains; bounds hold with the one-sided `confidence`."""
    values = list(gains.values())
    mean = statistics.mean_of(values)
    bounds = mean.interval(confidence) if mean else None
    bca = statistics.bca_interval(values, confidence)
    return Effect(
        units=len(values),
        mean=float(np.mean(values)),
        low=bounds.low if bounds else None,
        high=bounds.high if bounds else None,
        confidence=confidence,
        won=sum(value > 0 for value in values),
        lost=sum(value < 0 for value in values),
        bca_low=bca.low if bca else None,
        bca_high=bca.high if bca else None,
        wilcoxon_p=statistics.wilcoxon_p(values),
    )


def as_primary(measured: Measured, confidence: float) -> Comparison:
    """A primary alone; the rule looks at the composite, this row explains it."""
    effect = effect_of(measured.gains, confidence)
    result: Result = "undecided"
    if effect.low is not None and effect.low > 0:
        result = "better"
    elif effect.high is not None and effect.high < 0:
        result = "worse"
    return _row(measured, "primary", effect, result)


def as_guard(measured: Measured, guard: GuardConfig, confidence: float) -> Comparison:
    """Whether a metric is proved not to have lost more than its margin.

    A metric without a better side must stay within the margin on both sides.
    """
    effect = effect_of(measured.gains, confidence)
    margin = guard.margin
    if margin is None and measured.yardstick is not None:
        margin = guard.margin_sd * measured.yardstick
    return _row(
        measured,
        "guard",
        effect,
        _guard_result(effect, margin, two_sided=measured.metric.direction == 0),
        margin,
    )


def as_ceiling(measured: Measured, ceiling: CeilingConfig, confidence: float) -> Comparison:
    """Whether every single video of the candidate stays at or under a limit."""
    limit = ceiling.limit
    effect = effect_of(measured.gains, confidence)
    if limit is None:
        return _row(measured, "ceiling", effect, "undecided")
    over = any(value > limit for value in measured.candidate.values())
    return _row(measured, "ceiling", effect, "over limit" if over else "under limit", limit)


def as_information(measured: Measured, confidence: float) -> Comparison:
    """A metric that the rule does not ask for."""
    return _row(measured, "info", effect_of(measured.gains, confidence), "info")


def number(value: float) -> str:
    """Four significant digits, as sentences and tables show them."""
    return f"{value:.4g}"


def signed(value: float) -> str:
    """Three significant digits with their sign."""
    return f"{value:+.3g}"


def bounds_of(effect: Effect) -> str:
    """The interval in words."""
    if effect.low is None or effect.high is None:
        return "no interval from a single unit"
    return f"{signed(effect.low)} to {signed(effect.high)}"


def _guard_result(effect: Effect, margin: float | None, *, two_sided: bool) -> Result:
    if margin is None:
        return "undecided"
    lost = -abs(effect.mean) if two_sided else effect.mean
    if lost < -margin:
        return "worse"
    if effect.low is None or effect.high is None:
        return "undecided"
    lowest = min(effect.low, -effect.high) if two_sided else effect.low
    return "not worse" if lowest > -margin else "undecided"


def _row(
    measured: Measured, role: Role, effect: Effect, result: Result, limit: float | None = None
) -> Comparison:
    reference = _mean(measured.reference)
    candidate = _mean(measured.candidate)
    metric = measured.metric
    heldout = metric.kind == "heldout"
    sentence = (
        f"{metric.name} ({role}, {metric.unit}) {number(reference)} -> {number(candidate)}, "
        f"effect {signed(effect.mean)} ({bounds_of(effect)}) over {effect.units} "
        f"{'clips' if heldout else 'prompts'}"
        f"{f', {effect.won} won' if metric.direction else ''}: {result}"
    )
    return Comparison(
        metric=metric.name,
        unit=metric.unit,
        direction=metric.direction,
        role=role,
        per="clip" if heldout else "prompt",
        base=measured.base,
        reference=reference,
        candidate=candidate,
        effect=effect,
        yardstick=measured.yardstick,
        limit=limit,
        result=result,
        sentence=sentence + _against(role, limit, two_sided=metric.direction == 0) + ".",
    )


def _against(role: Role, limit: float | None, *, two_sided: bool) -> str:
    if role == "ceiling" and limit is not None:
        return f"; no video may exceed {number(limit)}"
    if role != "guard":
        return ""
    if limit is None:
        return "; its margin is in seed SDs, which needs two seeds that differ"
    return f"; it may {'change' if two_sided else 'lose'} at most {number(limit)}"


def _mean(values: Mapping[tuple[str, int], float]) -> float:
    return float(np.mean(list(statistics.by_unit(values).values())))
