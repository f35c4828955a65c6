"""The history's numbers turned into places on the page: across in percent, down in points.

Versions stand side by side at even steps, oldest first, whatever time lay between them.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cogvx.evaluation.compare import number, signed
from cogvx.evaluation.documents import Result, Role
from cogvx.evaluation.history import Measure, ModelHistory, VersionHistory
from cogvx.pages.axes import round_step

HEIGHT = 120
_EDGE = 8.0
_ROLES: tuple[Role, ...] = ("primary", "guard", "ceiling", "info")
_GOOD: tuple[Result, ...] = ("better", "not worse", "under limit")
_BAD: tuple[Result, ...] = ("worse", "over limit")
# Beyond so many quartile distances a number no longer decides the scale.
_FAR = 4.0
_FEW = 8

Tone = Literal["good", "open", "bad", "plain"]


@dataclass(frozen=True)
class Mark:
    """One version in a panel. `low` and `high` end its bar; `zone` begins what is unacceptable.

    `off` says that a number lies beyond the scale and is drawn at its edge.
    """

    x: float
    y: float
    tone: Tone
    champion: bool
    off: bool
    label: str
    reference: float | None = None
    low: float | None = None
    high: float | None = None
    zone: float | None = None


@dataclass(frozen=True)
class Panel:
    """One chart of a metric: its marks, its ticks as (place, label), and lines across it."""

    title: str
    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, str], ...]
    zero: float | None = None
    limits: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class MetricHistory:
    """A metric over all versions: means of both arms, and effects with their intervals."""

    metric: str
    role: Role
    unit: str
    newest: str
    values: Panel | None
    effects: Panel | None


@dataclass(frozen=True)
class Seen:
    """A measure of a version, and where that version stands."""

    x: float
    version: VersionHistory
    measure: Measure
    champion: bool


def place_of(position: float, count: int) -> float:
    """Where a version stands across the page, in percent; `position` counts from zero."""
    return round(100.0 * (position + 0.5) / count, 3)


def metric_histories(history: ModelHistory) -> list[MetricHistory]:
    """Every metric that any version has; primaries first, each role in the order of the reports."""
    champions, found = history.once_champions, dict[str, list[Seen]]()
    for position, item in enumerate(history.versions):
        for measure in item.judgement.measures if item.judgement else ():
            x = place_of(position, len(history.versions))
            seen = Seen(x, item, measure, item.version in champions)
            found.setdefault(measure.metric, []).append(seen)
    width = 100.0 / max(len(history.versions), 1)
    told = [_metric(name, seen, width) for name, seen in found.items()]
    return sorted(told, key=lambda item: _ROLES.index(item.role))


def tone_of(measure: Measure) -> Tone:
    """How a result is coloured."""
    if measure.role == "info":
        return "plain"
    return "good" if measure.result in _GOOD else "bad" if measure.result in _BAD else "open"


def effect_text(measure: Measure) -> str:
    """An effect and its interval, as tables and screen readers tell it."""
    if measure.effect is None:
        return "not kept"
    text = signed(measure.effect)
    if measure.low is None or measure.high is None:
        return text
    return f"{text} ({signed(measure.low)} to {signed(measure.high)})"


def _metric(name: str, seen: Sequence[Seen], width: float) -> MetricHistory:
    last = seen[-1].measure
    newest = f"v{seen[-1].version.version}: {effect_text(last)}"
    if last.role != "info":
        newest += f", {last.result}"
    return MetricHistory(
        metric=name,
        role=last.role,
        unit=last.unit,
        newest=newest,
        values=_values(seen, width),
        effects=_effects(seen),
    )


def _values(seen: Sequence[Seen], width: float) -> Panel | None:
    shown = [each for each in seen if each.measure.candidate is not None]
    if not shown:
        return None
    ceilings = [each for each in shown if each.measure.role == "ceiling"]
    scale = Scale.of(
        [each.measure.candidate for each in shown],
        beside=[each.measure.reference for each in shown],
        always=[each.measure.limit for each in ceilings],
    )
    return Panel(
        title="means",
        marks=tuple(
            _mark(each, scale, each.measure.candidate or 0.0, reference=each.measure.reference)
            for each in shown
        ),
        ticks=scale.ticks,
        limits=tuple(
            (each.x - width / 2, each.x + width / 2, scale.at(each.measure.limit))
            for each in ceilings
            if each.measure.limit is not None
        ),
    )


def _effects(seen: Sequence[Seen]) -> Panel | None:
    shown = [each for each in seen if each.measure.effect is not None]
    if not shown or shown[-1].measure.role == "ceiling":  # whose rule looks at no effect
        return None
    margins = [each.measure.limit for each in shown if each.measure.role == "guard"]
    scale = Scale.of(
        [
            number
            for each in shown
            for number in (each.measure.low, each.measure.effect, each.measure.high)
        ],
        always=[0.0, *(-1.3 * margin for margin in margins if margin is not None)],
    )
    return Panel(
        title="effect",
        marks=tuple(_mark(each, scale, each.measure.effect or 0.0) for each in shown),
        ticks=scale.ticks,
        zero=scale.at(0.0),
    )


def _mark(each: Seen, scale: "Scale", value: float, *, reference: float | None = None) -> Mark:
    measure, is_effect = each.measure, reference is None
    who = f"version {each.version.version}, {measure.metric}: "
    if is_effect:
        label = f"{who}effect {effect_text(measure)}, {measure.result}"
    else:
        label = f"{who}{number(value)}, reference {number(reference or 0.0)}"
    margin = measure.limit if is_effect and measure.role == "guard" else None
    bounds = (measure.low, measure.high) if is_effect else (None, None)
    return Mark(
        x=each.x,
        y=scale.at(value),
        tone=tone_of(measure),
        champion=each.champion,
        off=not scale.holds(value),
        label=label,
        reference=None if reference is None else scale.at(reference),
        low=None if bounds[0] is None else scale.at(bounds[0]),
        high=None if bounds[1] is None else scale.at(bounds[1]),
        zone=None if margin is None else scale.at(-margin),
    )


@dataclass(frozen=True)
class Scale:
    """From numbers to points below the upper edge of a panel."""

    low: float
    high: float

    @classmethod
    def of(
        cls,
        values: Iterable[float | None],
        *,
        beside: Iterable[float | None] = (),
        always: Iterable[float | None] = (),
    ) -> "Scale":
        """A scale for values, what is seen beside them, and what must be seen.

        What lies far from most values is left out, so that one wreck does not flatten the rest.
        """
        known, near = _finite(values), _finite(beside)
        if len(known) >= _FEW:
            first, third = known[len(known) // 4], known[(3 * len(known)) // 4]
            reach = _FAR * (third - first) or math.inf
            known, near = (
                [value for value in some if first - reach <= value <= third + reach]
                for some in (known, near)
            )
        shown = [*known, *near, *_finite(always)] or [0.0]
        low, high = min(shown), max(shown)
        spare = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
        return cls(low - spare, high + spare)

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """About three round numbers with their places."""
        return tuple((self.at(value), number(value)) for value in self._round())

    def at(self, value: float) -> float:
        """The place of a number; of one beyond the scale, the edge."""
        share = (self.high - value) / (self.high - self.low)
        return round(_EDGE + (HEIGHT - 2 * _EDGE) * min(max(share, 0.0), 1.0), 1)

    def holds(self, value: float) -> bool:
        """Whether a number has its true place."""
        return self.low <= value <= self.high

    def _round(self) -> Iterator[float]:
        step = round_step((self.high - self.low) / 4)
        for count in range(math.ceil(self.low / step), math.floor(self.high / step) + 1):
            yield count * step


def _finite(values: Iterable[float | None]) -> list[float]:
    return sorted(value for value in values if value is not None and math.isfinite(value))
