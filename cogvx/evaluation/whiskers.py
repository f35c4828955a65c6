"""The table of metrics as places on the page: every interval on one axis, in yardsticks.

A guard whose margin would leave that axis, or vanish on it, is drawn in margins and says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cogvx.evaluation.compare import number, signed
from cogvx.evaluation.documents import Comparison, Effect, EvaluationReport
from cogvx.metrics.registry import metrics

_LEAST_REACH, _MOST_REACH = 2.0, 6.0
_FEW_MARGINS, _MANY_MARGINS = 0.3, 3.0
_HALF = 47.0  # percent of the cell from zero to the axis' end; the rest is for arrows
_GOOD = ("better", "not worse", "under limit")
_BAD = ("worse", "over limit")
_MARKS = {"good": "✔", "bad": "✘", "open": "?", "plain": "·"}


@dataclass(frozen=True)
class Whisker:
    """An interval in percent of the cell's width; zero is at 50. Zones are unacceptable.

    `past` says on which sides the interval runs off the axis, `detectable` where the smallest
    effect stands that so many units would find.
    """

    dot: float
    low: float | None
    high: float | None
    zones: tuple[tuple[float, float], ...]
    past: tuple[bool, bool]
    detectable: float | None
    label: str


@dataclass(frozen=True)
class MetricRow:
    """One line of the table; `notes` stand behind its name, for whoever asks."""

    name: str
    over: str
    role: str
    unit: str
    reference: str
    candidate: str
    won: str
    whisker: Whisker | None
    plainly: str
    mark: str
    tone: str
    result: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class MetricTable:
    """What the rule looks at, what it does not, and the ticks of their axis as (place, label)."""

    deciding: tuple[MetricRow, ...]
    information: tuple[MetricRow, ...]
    ticks: tuple[tuple[float, str], ...]


def metric_table(report: EvaluationReport) -> MetricTable:
    """Lay out the verdict's comparisons, in their order."""
    verdict = report.verdict
    deciding = [row for row in verdict.comparisons if row.role != "info"]
    reach = _reach(deciding or verdict.comparisons, verdict.composite)
    rows = [_row(row, reach, report) for row in verdict.comparisons]
    first = _composite(report, reach)
    return MetricTable(
        deciding=(*first, *(row for row in rows if row.role != "info")),
        information=tuple(row for row in rows if row.role == "info"),
        ticks=tuple(
            (_place(value, reach), "0" if value == 0 else f"{value:+d}".replace("-", "−"))
            for value in range(-int(reach), int(reach) + 1)
        ),
    )


def _row(row: Comparison, reach: float, report: EvaluationReport) -> MetricRow:
    tone = "good" if row.result in _GOOD else "bad" if row.result in _BAD else "open"
    tone = "plain" if row.role == "info" else tone
    drawn = None if row.role == "ceiling" else _whisker(row, reach)
    won = f"{row.effect.won} of {row.effect.units}" if row.direction else f"{row.effect.units}"
    plainly = _highest(row, report) if row.role == "ceiling" else _in_words(row.effect)
    return MetricRow(
        name=row.metric,
        over=row.label[len(row.metric) :].strip(),
        role=row.role,
        unit=row.unit,
        reference=number(row.reference),
        candidate=number(row.candidate),
        won="" if row.role == "ceiling" else f"{won} {row.per}s",
        whisker=drawn,
        plainly=plainly,
        mark=_MARKS[tone],
        tone=tone,
        result=_result(row),
        notes=_notes(row, in_margins=drawn is not None and _in_margins(row)),
    )


def _composite(report: EvaluationReport, reach: float) -> tuple[MetricRow, ...]:
    """The one number that must lie above zero, where it is not the only primary itself."""
    verdict = report.verdict
    effect = verdict.composite
    primaries = [row.metric for row in verdict.comparisons if row.role == "primary"]
    if effect is None or len(primaries) < 2:
        return ()
    tone = "open"
    if effect.low is not None and effect.low > 0:
        tone = "good"
    elif effect.high is not None and effect.high < 0:
        tone = "bad"
    result = {"good": "better", "bad": "worse", "open": "undecided"}[tone]
    note = (
        f"The mean of {' and '.join(primaries)}, each in its own yardstick: {signed(effect.mean)}"
        f" ({_in_words(effect)}). To promote, its lower bound must lie above zero."
    )
    label = f"composite: effect {_in_words(effect)}; {result}"
    row = MetricRow(
        name="composite",
        over="",
        role="decides",
        unit="",
        reference="",
        candidate="",
        won=f"{effect.won} of {effect.units}",
        whisker=_drawn(effect, 1.0, reach, (), verdict.detectable, label),
        plainly=_in_words(effect),
        mark=_MARKS[tone],
        tone=tone,
        result=result,
        notes=(note,),
    )
    return (row,)


def _whisker(row: Comparison, reach: float) -> Whisker | None:
    scale = _scale(row)
    if not scale:
        return None
    zones: list[tuple[float, float]] = []
    if row.role == "guard" and row.limit:
        edge = _place(-row.limit / scale, reach)
        zones.append((0.0, edge))
        if row.direction == 0:
            zones.append((round(100.0 - edge, 2), edge))
    label = f"{row.label}: effect {_in_words(row.effect)}; {row.result}"
    return _drawn(row.effect, scale, reach, tuple(zones), row.detectable, label)


def _drawn(
    effect: Effect,
    scale: float,
    reach: float,
    zones: tuple[tuple[float, float], ...],
    detectable: float | None,
    label: str,
) -> Whisker:
    low, high = (None if end is None else end / scale for end in (effect.low, effect.high))
    ends = [end for end in (low, high, effect.mean / scale) if end is not None]
    found = None if detectable is None else detectable / scale
    return Whisker(
        dot=_place(effect.mean / scale, reach),
        low=None if low is None else _place(low, reach),
        high=None if high is None else _place(high, reach),
        zones=zones,
        past=(min(ends) < -reach, max(ends) > reach),
        detectable=None if found is None or found > reach else _place(found, reach),
        label=label,
    )


def _scale(row: Comparison) -> float:
    if _in_margins(row):
        return row.limit or 0.0
    return row.yardstick or 0.0


def _in_margins(row: Comparison) -> bool:
    if row.role != "guard" or not row.limit:
        return False
    return not row.yardstick or not _FEW_MARGINS <= row.limit / row.yardstick <= _MANY_MARGINS


def _reach(rows: Sequence[Comparison], composite: Effect | None) -> float:
    """How far the axis goes: over all intervals and margins, within bounds."""
    ends = [_LEAST_REACH]
    for row in rows:
        scale = _scale(row)
        if scale and row.role != "ceiling":
            known = (row.effect.mean, row.effect.low, row.effect.high)
            ends += [abs(value) / scale * 1.05 for value in known if value is not None]
            ends += [1.5 * row.limit / scale] if row.limit else []
    if composite is not None:
        known = (composite.mean, composite.low, composite.high)
        ends += [abs(value) * 1.05 for value in known if value is not None]
    return min(max(ends), _MOST_REACH)


def _place(value: float, reach: float) -> float:
    return round(50.0 + _HALF * min(max(value / reach, -1.0), 1.0), 2)


def _highest(row: Comparison, report: EvaluationReport) -> str:
    """A ceiling is about the single worst video, not about means."""
    values = [
        score.value
        for score in report.scores
        if score.arm == report.verdict.candidate
        and score.metric == row.metric
        and report.is_over(row, score.prompt)
    ]
    if not values:
        return ""
    if row.limit is None:
        return f"highest {number(max(values))}, no limit known"
    over = sum(value > row.limit for value in values)
    told = f"highest {number(max(values))}, limit {number(row.limit)}: {over} of {len(values)} over"
    if row.chance is None:
        return told
    most = min(row.chance.allowed, row.chance.prompts)
    return f"{told}; {row.chance.over} of {row.chance.prompts} prompts, chance allows {most}"


def _in_words(effect: Effect) -> str:
    if effect.low is None or effect.high is None:
        return signed(effect.mean)
    return f"{signed(effect.mean)}, between {signed(effect.low)} and {signed(effect.high)}"


def _result(row: Comparison) -> str:
    if row.role == "guard" and row.direction == 0:
        return {"not worse": "unchanged", "worse": "changed"}.get(row.result, row.result)
    return "" if row.role == "info" else row.result


def _notes(row: Comparison, *, in_margins: bool) -> tuple[str, ...]:
    metric = metrics().get(row.metric)
    notes = [row.sentence]
    if metric is not None:
        notes.append(
            f"{metric.about[:1].upper()}{metric.about[1:]}. When it misleads: {metric.lies}."
        )
    if row.detectable is not None:
        sds = f" ({row.detectable / row.yardstick:.2g} yardsticks)" if row.yardstick else ""
        notes.append(
            f"So many {row.per}s find a true effect of {number(row.detectable)}{sds} in four"
            " evaluations of five."
        )
    if row.base is not None:
        notes.append(f"The bare base has {number(row.base)}.")
    if in_margins:
        notes.append("Drawn in margins: its zone begins one margin below zero.")
    return tuple(notes)
