"""The verdict in sentences that a person acts on: why, and what next."""

from collections.abc import Sequence
from dataclasses import dataclass

from cogvx.evaluation.compare import bounds_of, number, signed
from cogvx.evaluation.composite import Composite
from cogvx.evaluation.documents import Comparison, Effect, Outcome, Verdict
from cogvx.evaluation.looks import MORE_SEEDS, confidence_at, open_checks, wants_second_look
from cogvx.evaluation.power import USUAL_POWER
from cogvx.evaluation.suite import Suite
from cogvx.evaluation.suite_rule import GateConfig


@dataclass(frozen=True)
class Contest:
    """Who is judged against whom, under which suite."""

    suite: Suite
    reference: str
    candidate: str


def headline(
    contest: Contest,
    outcome: Outcome,
    obstacles: Sequence[str],
    comparisons: Sequence[Comparison],
    *,
    better: bool,
) -> str:
    """One sentence that says why; `better` where the composite is proved to be."""
    who, other = contest.candidate, contest.reference
    primaries = " and ".join(contest.suite.gate.primaries)
    if outcome == "INVALID":
        return f"Nothing was decided: {obstacles[0]}"
    if outcome == "PROMOTE":
        return f"{who} is better than {other} on {primaries}, and no guard got worse."
    broken = [row for row in comparisons if row.role in ("guard", "ceiling") and _failed(row)]
    if broken:
        return _broken(who, broken[0])
    if outcome == "REJECT":
        return f"{who} is worse than {other} on {primaries}."
    if obstacles:
        return f"{who} cannot be judged yet: {obstacles[0]}"
    return f"{who} is {_undecided(contest, comparisons, better=better)}"


def composite_sentence(
    gate: GateConfig, composite: Effect, comparisons: Sequence[Comparison]
) -> str:
    """The composite, its unit, its bounds, and what they mean."""
    if composite.low is not None and composite.low > 0:
        meaning = "above zero, so it is better"
    elif composite.high is not None and composite.high < 0:
        meaning = "below zero, so it is worse"
    else:
        meaning = "zero lies inside, so it may be luck"
    return (
        f"Composite of {', '.join(gate.primaries)}, in {_unit(comparisons)}:"
        f" {signed(composite.mean)} ({bounds_of(composite)}), {meaning}."
    )


def found_sentence(
    suite: Suite, composite: Composite, comparisons: Sequence[Comparison], *, look: int
) -> str:
    """What true effect such an evaluation finds: what a HOLD could have seen and did not."""
    counts = {row.per: row.effect.units for row in comparisons if row.role == "primary"}
    units = " and ".join(f"{count} {per}s" for per, count in counts.items())
    return (
        f"{units} that scatter like these find a true effect of {number(composite.detectable)} in"
        f" {_unit(comparisons)} in {USUAL_POWER:.0%} of evaluations, at a confidence of"
        f" {confidence_at(suite.gate, look):g}."
    )


def next_step(contest: Contest, verdict: Verdict) -> str:
    """What the reader does now, with its cost in videos."""
    if verdict.outcome == "INVALID":
        return "Mend what is named here, then evaluate again."
    if verdict.outcome == "PROMOTE":
        return f"Give {contest.candidate} the alias champion."
    if verdict.outcome == "REJECT":
        return f"Keep {contest.reference}, and look at the videos of {contest.candidate}."
    gate, steps = contest.suite.gate, list[str]()
    undecided = [row for row in verdict.comparisons if row.result == "undecided"]
    if any(row.per == "clip" for row in undecided) or verdict.composite is None:
        steps.append("hold out more clips (dataset.min_heldout), or train longer")
    if any(row.role == "ceiling" and row.limit is None for row in undecided):
        steps.append("give the ceilings their limits in the suite")
    if wants_second_look(verdict, gate):
        videos = MORE_SEEDS * len(contest.suite.prompts)
        steps.append(
            f"add {MORE_SEEDS} seeds ({videos} videos an arm) and judge once more at"
            f" confidence {confidence_at(gate, 2):g}"
        )
    elif verdict.look == 1 and any(row.per == "clip" for row in undecided):
        steps.append("more seeds would not help, as held-out clips have none")
    text = "; ".join([*steps, "or let a person decide"] if steps else ["let a person decide"])
    return text[0].upper() + text[1:] + "."


def _unit(comparisons: Sequence[Comparison]) -> str:
    scaled = all(row.yardstick for row in comparisons if row.role == "primary")
    return "SDs of the reference" if scaled else "its own unit"


def _undecided(contest: Contest, comparisons: Sequence[Comparison], *, better: bool) -> str:
    primaries = " and ".join(contest.suite.gate.primaries)
    if not better:
        return f"not proved better than {contest.reference} on {primaries}: it may be luck."
    undecided = [row.label for row in open_checks(comparisons)]
    return f"better on {primaries}, but undecided on {', '.join(undecided)}."


def _failed(row: Comparison) -> bool:
    return row.result in ("worse", "over limit")


def _broken(who: str, row: Comparison) -> str:
    limit = number(row.limit or 0.0)
    if row.chance is not None:
        return (
            f"{who} has videos of {row.chance.over} prompts over {limit} on {row.label},"
            f" and chance allows {row.chance.allowed}."
        )
    if row.role == "ceiling":
        return f"{who} has a video over the limit of {limit} on {row.label}."
    change = "worsens" if row.direction else "changes"
    return (
        f"{who} {change} {row.label} by {number(abs(row.effect.mean))},"
        f" more than the {limit} that the suite allows."
    )
