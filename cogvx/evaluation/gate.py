"""The written rule: PROMOTE, HOLD, REJECT or INVALID, and why.

INVALID  any integrity fault; nothing is compared
PROMOTE  lower bound of the composite > 0, every guard's lower bound > -margin,
         every ceiling respected
REJECT   upper bound of the composite < 0, or any guard's mean < -margin, or a ceiling broken
HOLD     otherwise, also where something that the rule asks for was not measured

The composite is the mean over the primaries of the paired effect in yardsticks
(`cogvx.evaluation.compare`): one number declared in advance, so one test and no correction.
"""

from collections.abc import Mapping, Sequence

from cogvx.evaluation import statistics
from cogvx.evaluation.compare import (
    Measured,
    as_ceiling,
    as_guard,
    as_information,
    as_primary,
    effect_of,
)
from cogvx.evaluation.documents import Comparison, Effect, Outcome, Verdict
from cogvx.evaluation.suite import GateConfig
from cogvx.evaluation.wording import Contest, composite_sentence, headline, next_step

_URGENCY = {"worse": 0, "over limit": 0, "undecided": 1, "not worse": 2, "under limit": 2}


def decide(
    contest: Contest, measured: Mapping[str, Measured], *, faults: Sequence[str] = ()
) -> Verdict:
    """Apply the rule of the suite to what was measured, by metric.

    `faults` are sentences about broken integrity; any of them makes the evaluation invalid.
    """
    if faults:
        return _verdict(contest, "INVALID", tuple(faults), None, ())
    gate = contest.suite.gate
    comparisons = tuple(_comparisons(gate, measured))
    lacking = [
        f"{name} was not measured, and the rule needs it."
        for name in _asked(gate)
        if name not in measured
    ]
    composite = None
    if not lacking:
        composite, lacking = composite_of(gate, [measured[name] for name in gate.primaries])
    outcome = _outcome(composite, comparisons, complete=not lacking)
    return _verdict(contest, outcome, tuple(lacking), composite, comparisons)


def composite_of(
    gate: GateConfig, primaries: Sequence[Measured]
) -> tuple[Effect | None, list[str]]:
    """The one effect that must lie above zero, or what stands in its way.

    Video metrics are averaged inside each prompt; where the held-out loss is a primary as well,
    its mean over clips is added as an independent estimate. A single primary needs no yardstick,
    as dividing by one changes no sign.
    """
    alone = len(primaries) == 1
    lacking, scaled = [], []
    for measured in primaries:
        gains, yardstick = measured.gains, measured.yardstick
        if len(gains) < 2:
            lacking.append(
                f"{measured.metric.name} has {len(gains)} {measured.per}; an interval needs two."
            )
        elif yardstick is None and not alone:
            lacking.append(f"{measured.metric.name} has no seed SD; give the suite two seeds.")
        scaled.append({unit: gain / (yardstick or 1.0) for unit, gain in gains.items()})
    if lacking:
        return None, lacking
    kinds = {measured.metric.kind for measured in primaries}
    if len(kinds) == 1:
        return effect_of(_mean_per_unit(scaled), gate.confidence), []
    return _mixed(gate, primaries, scaled), []


def _mixed(
    gate: GateConfig, primaries: Sequence[Measured], scaled: Sequence[Mapping[str, float]]
) -> Effect:
    """Prompts and clips together: two independent means, weighted by their primaries."""
    parts, units, won, lost = [], 0, 0, 0
    for kind in ("video", "heldout"):
        mine = [
            gains
            for measured, gains in zip(primaries, scaled, strict=True)
            if measured.metric.kind == kind
        ]
        values = list(_mean_per_unit(mine).values())
        mean = statistics.mean_of(values)
        if mean is not None:
            parts.append((len(mine) / len(primaries), mean))
        units += len(values)
        won += sum(value > 0 for value in values)
        lost += sum(value < 0 for value in values)
    total = statistics.weighted_sum(parts)
    bounds = total.interval(gate.confidence)
    return Effect(
        units=units,
        mean=total.value,
        low=bounds.low,
        high=bounds.high,
        confidence=gate.confidence,
        won=won,
        lost=lost,
    )


def _mean_per_unit(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {unit: sum(part[unit] for part in parts) / len(parts) for unit in parts[0]}


def _asked(gate: GateConfig) -> list[str]:
    """Metrics that the rule needs, in its order, each once."""
    named = [
        *gate.primaries,
        *(guard.metric for guard in gate.guards),
        *(ceiling.metric for ceiling in gate.ceilings),
    ]
    return list(dict.fromkeys(named))


def _comparisons(gate: GateConfig, measured: Mapping[str, Measured]) -> list[Comparison]:
    """One row per metric: primaries, then what failed or is open, then the rest."""
    rows = [
        as_primary(measured[name], gate.confidence) for name in gate.primaries if name in measured
    ]
    checks = [
        as_guard(measured[guard.metric], guard, gate.guard_confidence)
        for guard in gate.guards
        if guard.metric in measured
    ] + [
        as_ceiling(measured[ceiling.metric], ceiling, gate.guard_confidence)
        for ceiling in gate.ceilings
        if ceiling.metric in measured
    ]
    rows += sorted(checks, key=lambda row: _URGENCY[row.result])
    asked = _asked(gate)
    return rows + [
        as_information(found, gate.confidence)
        for name, found in measured.items()
        if name not in asked
    ]


def _outcome(
    composite: Effect | None, comparisons: Sequence[Comparison], *, complete: bool
) -> Outcome:
    checks = [row.result for row in comparisons if row.role in ("guard", "ceiling")]
    if "worse" in checks or "over limit" in checks:
        return "REJECT"
    if composite is None or composite.low is None or composite.high is None:
        return "HOLD"
    if composite.high < 0:
        return "REJECT"
    if complete and composite.low > 0 and "undecided" not in checks:
        return "PROMOTE"
    return "HOLD"


def _verdict(
    contest: Contest,
    outcome: Outcome,
    obstacles: tuple[str, ...],
    composite: Effect | None,
    comparisons: tuple[Comparison, ...],
) -> Verdict:
    gate = contest.suite.gate
    told = () if composite is None else (composite_sentence(gate, composite, comparisons),)
    rows = tuple(row.sentence for row in comparisons if row.role != "info")
    return Verdict(
        outcome=outcome,
        headline=headline(contest, outcome, obstacles, composite, comparisons),
        reasons=obstacles + told + rows,
        next_step=next_step(contest, outcome, comparisons),
        reference=contest.reference,
        candidate=contest.candidate,
        suite=contest.suite.digest,
        composite=composite,
        comparisons=comparisons,
    )
