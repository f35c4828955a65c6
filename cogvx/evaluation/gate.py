"""The written rule, version 2: PROMOTE, HOLD, REJECT or INVALID, and why.

INVALID  any integrity fault (`cogvx.evaluation.integrity`); nothing is compared
PROMOTE  lower bound of the composite > 0, every guard's lower bound > -margin,
         every ceiling respected
REJECT   upper bound of the composite < 0, or any guard's mean < -margin, or a ceiling broken
HOLD     otherwise, also where something that the rule asks for was not measured

The composite is the mean over the primaries of the paired effect in yardsticks
(`cogvx.evaluation.compare`): one number declared in advance, so one test and no correction.

over     primaries of videos and of prompts: prompts of the group domain, all of them. Guards: the
         groups that they name, else all but train_caption. Ceilings: the groups that they name,
         else all. What is measured on held-out clips has no groups.
bounds   each holds with the suite's `confidence` for the composite, with its `guard_confidence` for
         a guard. A guard on a metric without a better side must hold on both sides.
margins  as declared, or so many yardsticks, which all prompts of the reference tell.
limits   as declared: no single video may exceed one. Or what held-out clips reach, which `judge`
         is told: over that some videos lie by chance, and it is broken by more prompts with a video
         over it than 1 - `guard_confidence` of sound candidates have, whose videos are as near as
         the clips are: X ~ BetaBinomial(videos, above + 1, clips - above), of clips `above` lie
         over it. A margin or limit that nobody knows is undecided.
looks    a screen before any video (`cogvx.evaluation.screen`), and after a HOLD on videos one more
         look with two more seeds, at half the error (`cogvx.evaluation.looks`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cogvx.evaluation.compare import Measured, as_ceiling, as_guard, as_information, as_primary
from cogvx.evaluation.composite import Composite, composite_of, obstacles_of
from cogvx.evaluation.documents import Comparison, Limit, Outcome, Verdict
from cogvx.evaluation.looks import confidence_at
from cogvx.evaluation.suite_rule import (
    GROUPS,
    PRIMARY_GROUPS,
    CeilingConfig,
    Group,
    GuardConfig,
)
from cogvx.evaluation.wording import (
    Contest,
    composite_sentence,
    found_sentence,
    headline,
    next_step,
)

RULE = 2
_URGENCY = {"worse": 0, "over limit": 0, "undecided": 1, "not worse": 2, "under limit": 2}


@dataclass(frozen=True)
class Evidence:
    """What the rule is applied to.

    `measured` is by metric. `faults` are sentences about broken integrity, any of which makes the
    evaluation invalid; `remarks` are told and change nothing. `limits` are those of ceilings that
    were measured rather than declared, by metric.
    """

    measured: Mapping[str, Measured]
    faults: Sequence[str] = ()
    remarks: Sequence[str] = ()
    limits: Mapping[str, Limit] = field(default_factory=dict)
    look: Literal[1, 2] = 1


def decide(contest: Contest, evidence: Evidence) -> Verdict:
    """Apply the rule of the suite to what was measured."""
    if evidence.faults:
        return _verdict(contest, evidence, "INVALID", obstacles=tuple(evidence.faults))
    gate = contest.suite.gate
    confidence = confidence_at(gate, evidence.look)
    primaries, guards, ceilings, lacking = _parts(contest, evidence.measured)
    unmeasured = len(primaries) < len(gate.primaries)
    obstacles = obstacles_of(primaries, asked=contest.suite.ids_of(PRIMARY_GROUPS))
    composite = None if unmeasured or obstacles else composite_of(primaries, confidence)
    lacking += obstacles
    checks = [as_guard(part, guard, gate.guard_confidence) for guard, part in guards]
    checks += [
        as_ceiling(
            part,
            evidence.limits.get(ceiling.metric) if ceiling.limit is None else ceiling.limit,
            gate.guard_confidence,
        )
        for ceiling, part in ceilings
    ]
    asked = {
        *gate.primaries,
        *(guard.metric for guard in gate.guards),
        *(ceiling.metric for ceiling in gate.ceilings),
    }
    comparisons = (
        *(as_primary(part, confidence) for part in primaries),
        *sorted(checks, key=lambda row: _URGENCY[row.result]),
        *(
            as_information(found, confidence)
            for name in evidence.measured
            if name not in asked
            and (found := evidence.measured[name].over(contest.suite, GROUPS)) is not None
        ),
    )
    return _verdict(
        contest,
        evidence,
        _outcome(composite, checks, complete=not lacking),
        obstacles=tuple(lacking),
        composite=composite,
        comparisons=comparisons,
    )


def _parts(
    contest: Contest, measured: Mapping[str, Measured]
) -> tuple[
    list[Measured],
    list[tuple[GuardConfig, Measured]],
    list[tuple[CeilingConfig, Measured]],
    list[str],
]:
    """What each line of the rule is over, and a sentence for each that was not measured."""
    suite, lacking = contest.suite, list[str]()

    def part(metric: str, groups: Sequence[Group], *, named: bool) -> Measured | None:
        found = measured[metric].over(suite, groups) if metric in measured else None
        if found is None:
            where = f" on {', '.join(groups)}" if named and metric in measured else ""
            lacking.append(f"{metric} was not measured{where}, and the rule needs it.")
        return found

    primaries = [part(name, PRIMARY_GROUPS, named=True) for name in suite.gate.primaries]
    guards = [
        (guard, part(guard.metric, guard.over, named=guard.groups is not None))
        for guard in suite.gate.guards
    ]
    ceilings = [
        (ceiling, part(ceiling.metric, ceiling.over, named=ceiling.groups is not None))
        for ceiling in suite.gate.ceilings
    ]
    return (
        [found for found in primaries if found is not None],
        [(guard, found) for guard, found in guards if found is not None],
        [(ceiling, found) for ceiling, found in ceilings if found is not None],
        list(dict.fromkeys(lacking)),
    )


def _outcome(
    composite: Composite | None, checks: Sequence[Comparison], *, complete: bool
) -> Outcome:
    results = [row.result for row in checks]
    if "worse" in results or "over limit" in results:
        return "REJECT"
    if composite is None or composite.effect.low is None or composite.effect.high is None:
        return "HOLD"
    if composite.effect.high < 0:
        return "REJECT"
    if complete and composite.effect.low > 0 and "undecided" not in results:
        return "PROMOTE"
    return "HOLD"


def _is_better(composite: Composite | None) -> bool:
    return composite is not None and composite.effect.low is not None and composite.effect.low > 0


def _verdict(
    contest: Contest,
    evidence: Evidence,
    outcome: Outcome,
    *,
    obstacles: tuple[str, ...],
    composite: Composite | None = None,
    comparisons: tuple[Comparison, ...] = (),
) -> Verdict:
    told = []
    if composite is not None:
        told = [
            composite_sentence(contest.suite.gate, composite.effect, comparisons),
            found_sentence(contest.suite, composite, comparisons, look=evidence.look),
        ]
    rows = [row.sentence for row in comparisons if row.role != "info"]
    found = Verdict(
        outcome=outcome,
        headline=headline(contest, outcome, obstacles, comparisons, better=_is_better(composite)),
        reasons=(*obstacles, *told, *rows, *evidence.remarks),
        next_step="",
        reference=contest.reference,
        candidate=contest.candidate,
        suite=contest.suite.digest,
        composite=None if composite is None else composite.effect,
        comparisons=comparisons,
        rule=RULE,
        look=evidence.look,
        detectable=None if composite is None else composite.detectable,
    )
    return found.model_copy(update={"next_step": next_step(contest, found)})
