"""Numbers over timesteps and weights as curves, in points of an SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cogvx.evaluation import statistics
from cogvx.evaluation.compare import number
from cogvx.evaluation.documents import EvaluationReport
from cogvx.metrics.registry import metrics
from cogvx.pages.axes import round_step

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 12, 40
_TIMESTEPS = ((0, "0"), (250, "250"), (500, "500"), (750, "750"), (1000, "1000"))
_CONFIDENCE = 0.975

Series = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """One line: its name, the class that colours it, and its points."""

    name: str
    look: str
    points: tuple[tuple[float, float], ...]

    @property
    def polyline(self) -> str:
        """As SVG writes points."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Chart:
    """A chart ready for the page, in points; ticks as (place, label), bars as (x, y, y)."""

    title: str
    across_title: str
    width: int
    height: int
    curves: tuple[Curve, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    bars: tuple[tuple[float, float, float], ...] = ()
    zero: float | None = None
    mark: float | None = None

    @property
    def inside(self) -> tuple[int, int, int, int]:
        """Left, right, top and bottom of the plot."""
        return _LEFT, self.width - _RIGHT, _TOP, self.height - _BOTTOM


@dataclass(frozen=True)
class _Frame:
    """Where values stand: x from 0 to 1 is across, y between the ends of round ticks is up."""

    width: int
    height: int
    low: float
    high: float

    def at(self, across: float, value: float) -> tuple[float, float]:
        x = _LEFT + (self.width - _LEFT - _RIGHT) * across
        up = (value - self.low) / (self.high - self.low)
        return x, _TOP + (self.height - _TOP - _BOTTOM) * (1 - up)


def loss_chart(report: EvaluationReport) -> Chart | None:
    """Mean held-out loss at each timestep, a curve for each arm; None where none was measured."""
    means = _mean_losses(report)
    if not means:
        return None
    highest = max(loss for curve in means.values() for loss in curve.values())
    frame, up = _framed(460, 240, 0.0, highest)
    looks = {arm.name: arm.role for arm in report.arms}
    return Chart(
        title="mean squared error of v",
        across_title="timestep (1000 is pure noise)",
        width=frame.width,
        height=frame.height,
        curves=tuple(
            Curve(arm, looks[arm], tuple(frame.at(t / 1000, loss) for t, loss in curve.items()))
            for arm, curve in means.items()
        ),
        across=tuple((frame.at(t / 1000, 0.0)[0], label) for t, label in _TIMESTEPS),
        up=up,
    )


def gain_chart(report: EvaluationReport) -> Chart | None:
    """What the challenger gains at each timestep, in percent of the reference's loss there.

    Bars are 95 % t-intervals over the clips, each timestep for itself. None where the arms have
    nothing in common.
    """
    verdict = report.verdict
    old, new = (_losses(report, arm) for arm in (verdict.reference, verdict.candidate))
    gains: dict[int, list[float]] = {}
    for key in sorted(old.keys() & new.keys(), key=lambda key: (key[1], key[0])):
        gains.setdefault(key[1], []).append(old[key] - new[key])
    if not gains:
        return None
    levels = _mean_losses(report)[verdict.reference]
    rows = []
    for t, found in gains.items():
        mean = statistics.mean_of(found)
        bounds = mean.interval(_CONFIDENCE) if mean else None
        ends = (bounds.low, bounds.high) if bounds else (found[0], found[0])
        unit = 100.0 / levels[t] if levels[t] else 0.0
        rows.append((t, *(unit * value for value in (sum(found) / len(found), *ends))))
    frame, up = _framed(460, 240, *_around([row[2] for row in rows], [row[3] for row in rows]))
    return Chart(
        title="loss saved, %",
        across_title="timestep (1000 is pure noise)",
        width=frame.width,
        height=frame.height,
        curves=(
            Curve(
                verdict.candidate,
                "candidate",
                tuple(frame.at(t / 1000, mean) for t, mean, _, _ in rows),
            ),
        ),
        across=tuple((frame.at(t / 1000, 0.0)[0], label) for t, label in _TIMESTEPS),
        up=up,
        bars=tuple(
            (frame.at(t / 1000, 0.0)[0], frame.at(0, low)[1], frame.at(0, high)[1])
            for t, _, low, high in rows
        ),
        zero=frame.at(0, 0.0)[1],
    )


def sweep_charts(report: EvaluationReport) -> tuple[Chart, ...]:
    """One small chart for each metric of the sweep, over the adapter's weight."""
    series: dict[str, list[tuple[float, float]]] = {}
    for point in report.sweep:
        series.setdefault(point.metric, []).append((point.weight, point.value))
    weights = sorted({point.weight for point in report.sweep})
    return tuple(_sweep_chart(metric, sorted(found), weights) for metric, found in series.items())


def clip_losses(report: EvaluationReport) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Mean loss of each held-out clip, one column per arm."""
    arms = [arm.name for arm in report.arms]
    means = {arm: statistics.by_unit(_losses(report, arm)) for arm in arms}
    return tuple(
        (clip, tuple(number(means[arm][clip]) if clip in means[arm] else "" for arm in arms))
        for clip in dict.fromkeys(score.clip for score in report.heldout)
    )


def sweep_table(report: EvaluationReport) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The sweep in numbers: a row for each weight, one column per metric."""
    names = tuple(dict.fromkeys(point.metric for point in report.sweep))
    values = {(point.weight, point.metric): point.value for point in report.sweep}
    return tuple(
        (
            f"{weight:g}",
            tuple(
                number(values[weight, name]) if (weight, name) in values else "" for name in names
            ),
        )
        for weight in sorted({point.weight for point in report.sweep})
    )


def _sweep_chart(metric: str, series: Series, weights: Sequence[float]) -> Chart:
    values = [value for _, value in series]
    spread = (max(values) - min(values)) or abs(max(values)) or 1.0
    least = min(values) - 0.05 * spread
    frame, up = _framed(
        340, 200, max(least, 0.0) if min(values) >= 0 else least, max(values) + 0.05 * spread
    )
    low, high = weights[0], weights[-1]

    def across(weight: float) -> float:
        return (weight - low) / (high - low) if high > low else 0.5

    known = metrics().get(metric)
    side = {1: ", more is better", -1: ", less is better"}.get(known.direction if known else 0, "")
    return Chart(
        title=metric + side,
        across_title="weight",
        width=frame.width,
        height=frame.height,
        curves=(
            Curve(metric, "candidate", tuple(frame.at(across(w), value) for w, value in series)),
        ),
        across=tuple((frame.at(across(w), frame.low)[0], f"{w:g}") for w in weights),
        up=up,
        mark=frame.at(across(1.0), frame.low)[0] if low <= 1.0 <= high else None,
    )


def _framed(
    width: int, height: int, low: float, high: float
) -> tuple[_Frame, tuple[tuple[float, str], ...]]:
    """A frame that holds `low` to `high` between round ticks."""
    step = round_step(((high - low) or abs(high) or 1.0) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    frame = _Frame(width, height, first * step, last * step)
    ticks = [count * step for count in range(first, last + 1)]
    return frame, tuple((frame.at(0, tick)[1], number(tick or 0.0)) for tick in ticks)


def _around(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
    """From the lowest to the highest, and zero."""
    return min(0.0, *lows), max(0.0, *highs)


def _losses(report: EvaluationReport, arm: str) -> dict[tuple[str, int], float]:
    return {
        (score.clip, score.timestep): score.loss for score in report.heldout if score.arm == arm
    }


def _mean_losses(report: EvaluationReport) -> Mapping[str, Mapping[int, float]]:
    sums: dict[str, dict[int, list[float]]] = {}
    for score in report.heldout:
        sums.setdefault(score.arm, {}).setdefault(score.timestep, []).append(score.loss)
    return {
        arm.name: {t: sum(found) / len(found) for t, found in sorted(sums[arm.name].items())}
        for arm in report.arms
        if arm.name in sums
    }
