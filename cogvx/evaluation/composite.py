"""The one number of the rule: the mean over the primaries of the paired effect in yardsticks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cogvx.evaluation import statistics
from cogvx.evaluation.compare import Measured, effect_of
from cogvx.evaluation.documents import Effect
from cogvx.evaluation.power import detectable_effect


@dataclass(frozen=True)
class Composite:
    """The effect that must lie above zero, and the smallest true one that would be found."""

    effect: Effect
    detectable: float


def obstacles_of(primaries: Sequence[Measured], *, asked: Sequence[str]) -> list[str]:
    """Why no composite can be made; `asked` are the prompts that each primary is over."""
    lacking = []
    for measured in primaries:
        gains, name = measured.gains, measured.metric.name
        missing = [] if measured.per == "clip" else [unit for unit in asked if unit not in gains]
        if missing:
            lacking.append(f"{name} was not measured on {', '.join(missing)}.")
        elif len(gains) < 2:
            lacking.append(f"{name} has {len(gains)} {measured.per}; an interval needs two.")
        elif measured.yardstick is None and len(primaries) > 1:
            lacking.append(_without_yardstick(measured))
    return lacking


def composite_of(primaries: Sequence[Measured], confidence: float) -> Composite:
    """Video metrics are averaged inside each prompt, over their seeds and over the primaries.

    Where the held-out loss is a primary as well, its mean over clips is added as an independent
    estimate, and each part weighs by its number of primaries. A single primary needs no yardstick,
    as dividing by one changes no sign.

    Args:
        primaries: Without obstacles.
        confidence: Of one bound.
    """
    parts = {
        per: [
            {unit: gain / (measured.yardstick or 1.0) for unit, gain in measured.gains.items()}
            for measured in primaries
            if measured.per == per
        ]
        for per in ("prompt", "clip")
    }
    gains = {per: _mean_per_unit(found) for per, found in parts.items() if found}
    weights = {per: len(parts[per]) / len(primaries) for per in gains}
    means = {per: statistics.mean_of(list(found.values())) for per, found in gains.items()}
    total = statistics.weighted_sum(
        [(weights[per], mean) for per, mean in means.items() if mean is not None]
    )
    detectable = detectable_effect(total, confidence)
    if len(gains) == 1:
        (only,) = gains.values()
        return Composite(effect_of(only, confidence), detectable)
    bounds = total.interval(confidence)
    values = [value for found in gains.values() for value in found.values()]
    effect = Effect(
        units=len(values),
        mean=total.value,
        low=bounds.low,
        high=bounds.high,
        confidence=confidence,
        won=sum(value > 0 for value in values),
        lost=sum(value < 0 for value in values),
    )
    return Composite(effect, detectable)


def _mean_per_unit(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {unit: sum(part[unit] for part in parts) / len(parts) for unit in parts[0]}


def _without_yardstick(measured: Measured) -> str:
    if measured.metric.kind == "video":
        return f"{measured.metric.name} has no seed SD; give the suite two seeds."
    return f"{measured.metric.name} is the same for every {measured.per} of the reference."
