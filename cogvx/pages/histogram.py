"""Values as bars, those of another dataset as a line around them, and a limit as a mark."""

from collections.abc import Sequence
from dataclasses import dataclass

from cogvx.pages.axes import Axis, round_ticks

WIDTH, HEIGHT = 440, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 18, 24, 40
_ACROSS = WIDTH - _LEFT - _RIGHT
_UP = HEIGHT - _TOP - _BOTTOM


@dataclass(frozen=True)
class Bar:
    """A bin with clips in it, in points; `label` says its bounds and its count."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A limit: its place across, its words, and whether these stand left of it."""

    x: float
    words: str
    left: bool


@dataclass(frozen=True)
class Histogram:
    """A chart ready for the page, in points; ticks as (place, label)."""

    title: str
    unit: str
    bars: tuple[Bar, ...]
    outline: str
    mark: Mark | None
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    label: str

    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    floor: int = HEIGHT - _BOTTOM


def draw_histogram(
    title: str,
    values: Sequence[float],
    *,
    other: Sequence[float] = (),
    axis: Axis,
    unit: str,
    limit: tuple[float, str] | None = None,
) -> Histogram:
    """Draw shares of clips by bin, so that datasets of different sizes can be compared.

    Args:
        title: What the values are.
        values: One for each clip; not empty.
        other: Those of the dataset to compare with.
        axis: Holds the values.
        unit: What the values are counted in.
        limit: A value and the words for it.
    """
    counts, others = _counts(values, axis), _counts(other, axis)
    shares = [100 * count / len(values) for count in counts]
    before = [100 * count / len(other) for count in others] if other else []
    ticks = round_ticks(max([*shares, *before]))

    def y(share: float) -> float:
        return _TOP + _UP * (1 - share / ticks[-1])

    lefts = [_LEFT + _ACROSS * axis.place(edge) for edge in axis.edges]
    bars = tuple(
        Bar(
            x=lefts[i] + 0.5,
            y=y(share),
            width=lefts[i + 1] - lefts[i] - 1,
            height=y(0.0) - y(share),
            label=f"{axis.edges[i]:.3g} to {axis.edges[i + 1]:.3g} {unit}: {counts[i]}",
        )
        for i, share in enumerate(shares)
        if counts[i]
    )
    corners = [(x, y(share)) for i, share in enumerate(before) for x in (lefts[i], lefts[i + 1])]
    return Histogram(
        title=title,
        unit=unit,
        bars=bars,
        outline=" ".join(f"{x:.1f},{top:.1f}" for x, top in corners),
        mark=_mark(limit, axis) if limit else None,
        across=tuple((_LEFT + _ACROSS * axis.place(t), f"{t:g}") for t in axis.ticks),
        up=tuple((y(tick), f"{tick:g}%") for tick in ticks),
        label=f"{title} of {len(values)} clips: " + "; ".join(bar.label for bar in bars),
    )


def _counts(values: Sequence[float], axis: Axis) -> list[int]:
    counts = [0] * (len(axis.edges) - 1)
    for value in values:
        counts[axis.bin(value)] += 1
    return counts


def _mark(limit: tuple[float, str], axis: Axis) -> Mark:
    value, words = limit
    share = axis.place(value)
    return Mark(x=_LEFT + _ACROSS * share, words=words, left=share > 0.5)
