"""The verdict in sentences that a person acts on: why, and what next."""

from collections.abc import Sequence
from dataclasses import dataclass

from cogvx.evaluation.compare import bounds_of, number, signed
from cogvx.evaluation.documents import Comparison, Effect, Outcome
from cogvx.evaluation.statistics import SECOND_LOOK
from cogvx.evaluation.suite import GateConfig, Suite

MORE_SEEDS = 2


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
    composite: Effect | None,
    comparisons: Sequence[Comparison],
) -> str:
    """One sentence that says why."""
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
    return _undecided(contest, obstacles, composite, comparisons)


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
    scaled = all(row.yardstick for row in comparisons if row.role == "primary")
    unit = "SDs of the reference" if scaled else "its own unit"
    return (
        f"Composite of {', '.join(gate.primaries)}, in {unit}: {signed(composite.mean)}"
        f" ({bounds_of(composite)}), {meaning}."
    )


def next_step(contest: Contest, outcome: Outcome, comparisons: Sequence[Comparison]) -> str:
    """What the reader does now, with its cost in videos."""
    if outcome == "INVALID":
        return "Mend what is named here, then evaluate again."
    if outcome == "PROMOTE":
        return f"Give {contest.candidate} the alias champion."
    if outcome == "REJECT":
        return f"Keep {contest.reference}, and look at the videos of {contest.candidate}."
    steps = []
    undecided = [row for row in comparisons if row.result == "undecided"]
    if not undecided or any(row.per == "clip" for row in undecided):
        steps.append("hold out more clips (dataset.min_heldout), or train longer")
    if any(row.per == "prompt" for row in undecided):
        videos = MORE_SEEDS * len(contest.suite.prompts)
        steps.append(
            f"add {MORE_SEEDS} seeds ({videos} videos an arm) and judge once more at"
            f" confidence {SECOND_LOOK}"
        )
    text = "; ".join([*steps, "or let a person decide"])
    return text[0].upper() + text[1:] + "."


def _failed(row: Comparison) -> bool:
    return row.result in ("worse", "over limit")


def _broken(who: str, row: Comparison) -> str:
    limit = number(row.limit or 0.0)
    if row.role == "ceiling":
        return f"{who} has a video over the limit of {limit} on {row.metric}."
    change = "changes" if row.direction == 0 else "worsens"
    return (
        f"{who} {change} {row.metric} by {number(abs(row.effect.mean))},"
        f" more than the {limit} that the suite allows."
    )


def _undecided(
    contest: Contest,
    obstacles: Sequence[str],
    composite: Effect | None,
    comparisons: Sequence[Comparison],
) -> str:
    who, primaries = contest.candidate, " and ".join(contest.suite.gate.primaries)
    if obstacles:
        return f"{who} cannot be judged yet: {obstacles[0]}"
    if composite is not None and composite.low is not None and composite.low > 0:
        guards = [
            row.metric for row in comparisons if row.role == "guard" and row.result == "undecided"
        ]
        return f"{who} is better on {primaries}, but undecided on {', '.join(guards)}."
    return f"{who} is not proved better than {contest.reference} on {primaries}: it may be luck."
