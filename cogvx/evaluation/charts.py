"""Numbers turned into places on the page: whiskers in percent, curves in points."""

from collections.abc import Sequence
from dataclasses import dataclass

from cogvx.evaluation.compare import number, signed
from cogvx.evaluation.documents import ArmHeldout, Comparison
from cogvx.pages.axes import round_ticks

CURVE_WIDTH, CURVE_HEIGHT = 460, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 24, 10, 34
_REACH = 46.0
_GOOD = ("better", "not worse", "under limit")
_BAD = ("worse", "over limit")


@dataclass(frozen=True)
class Whisker:
    """An interval in percent of the row's width; zero is at 50. Zones are unacceptable."""

    dot: float
    low: float | None
    high: float | None
    zones: tuple[tuple[float, float], ...]
    label: str


@dataclass(frozen=True)
class MetricRow:
    """One line of the table of metrics."""

    name: str
    role: str
    unit: str
    values: str
    won: str
    effect: str
    whisker: Whisker | None
    mark: str
    tone: str
    result: str
    sentence: str


@dataclass(frozen=True)
class Curve:
    """One arm's loss over timesteps, as an SVG polyline and its points."""

    arm: str
    points: tuple[tuple[float, float], ...]

    @property
    def polyline(self) -> str:
        """As SVG writes points."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class LossChart:
    """Held-out loss by timestep, with ticks as (place, label)."""

    curves: tuple[Curve, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]


def metric_row(row: Comparison) -> MetricRow:
    """Lay out one comparison."""
    tone = "good" if row.result in _GOOD else "bad" if row.result in _BAD else "open"
    if row.role == "info":
        tone = "plain"
    mark = {"good": "✔", "bad": "✘", "open": "?", "plain": ""}[tone]
    effect = row.effect
    won = (
        f"{effect.won}/{effect.units} {row.per}s" if row.direction else f"{effect.units} {row.per}s"
    )
    text = signed(effect.mean)
    if effect.low is not None and effect.high is not None:
        text += f" ({signed(effect.low)} to {signed(effect.high)})"
    return MetricRow(
        name=row.metric,
        role=row.role,
        unit=row.unit,
        values=f"{number(row.reference)} → {number(row.candidate)}",
        won=won,
        effect=text,
        whisker=None if row.role == "ceiling" else whisker(row),
        mark=mark,
        tone=tone,
        result=_words(row),
        sentence=row.sentence,
    )


def whisker(row: Comparison) -> Whisker:
    """Place an effect on its row; the row's scale holds the interval and the whole margin."""
    effect = row.effect
    margin = row.limit if row.role == "guard" else None
    known = [abs(value) for value in (effect.mean, effect.low, effect.high) if value is not None]
    # A row without a margin is scaled by luck, so that a trifle does not look like a triumph.
    least = 1.6 * margin if margin else row.yardstick or 0.0
    reach = max([*known, least]) * 1.05 or 1.0

    def place(value: float) -> float:
        return round(50.0 + _REACH * value / reach, 2)

    zones: list[tuple[float, float]] = []
    if margin:
        zones.append((0.0, place(-margin)))
        if row.direction == 0:
            zones.append((place(margin), round(100.0 - place(margin), 2)))
    between = (
        "" if effect.low is None else f", {signed(effect.low)} to {signed(effect.high or 0.0)}"
    )
    return Whisker(
        dot=place(effect.mean),
        low=None if effect.low is None else place(effect.low),
        high=None if effect.high is None else place(effect.high),
        zones=tuple(zones),
        label=f"{row.metric}: effect {signed(effect.mean)}{between}; {row.result}",
    )


def loss_chart(heldout: Sequence[ArmHeldout], arms: Sequence[str]) -> LossChart | None:
    """Mean held-out loss at each timestep; None where nothing was measured."""
    sums: dict[str, dict[int, list[float]]] = {}
    for score in heldout:
        sums.setdefault(score.arm, {}).setdefault(score.timestep, []).append(score.loss)
    if not sums:
        return None
    means = {
        arm: {step: sum(losses) / len(losses) for step, losses in sorted(sums[arm].items())}
        for arm in arms
        if arm in sums
    }
    ticks = round_ticks(max(value for curve in means.values() for value in curve.values()))
    top = ticks[-1]

    def at(step: float, loss: float) -> tuple[float, float]:
        return (
            _LEFT + (CURVE_WIDTH - _LEFT - _RIGHT) * step / 1000,
            _TOP + (CURVE_HEIGHT - _TOP - _BOTTOM) * (1 - loss / top),
        )

    return LossChart(
        curves=tuple(
            Curve(arm, tuple(at(step, loss) for step, loss in curve.items()))
            for arm, curve in means.items()
        ),
        across=tuple((at(step, 0.0)[0], str(step)) for step in (0, 250, 500, 750, 1000)),
        up=tuple((at(0, tick)[1], number(tick)) for tick in ticks),
    )


def _words(row: Comparison) -> str:
    if row.role == "guard" and row.direction == 0:
        return {"not worse": "unchanged", "worse": "changed"}.get(row.result, row.result)
    return "" if row.role == "info" else row.result
