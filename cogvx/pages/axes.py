"""Axes of charts: round ticks from zero, and even or logarithmic bins."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_ROUND = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Axis:
    """Edges of bins, ascending, and values to write below them; `log` spaces them by ratio."""

    edges: tuple[float, ...]
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value stands, from 0 at the first edge to 1 at the last; outside is brought in.

        Raises:
            ValueError: The axis is logarithmic and begins at or below zero.
        """
        low, high = self.edges[0], self.edges[-1]
        value = min(max(value, low), high)
        if self.log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def bin(self, value: float) -> int:
        """The bin that a value falls into; the last edge belongs to the last bin."""
        last = len(self.edges) - 2
        return next((i for i in range(last) if value < self.edges[i + 1]), last)


def even_axis(high: float, bins: int) -> Axis:
    """From zero to at least `high`, in at most `bins` bins of a round width, one or more wide."""
    width = round_step(max(high / bins, 1.0))
    count = max(1, math.ceil(high / width))
    end = count * width
    ticks = tuple(tick for tick in round_ticks(end) if tick <= end)
    return Axis(tuple(width * number for number in range(count + 1)), ticks)


def ratio_axis(values: Sequence[float], *, low: float, high: float) -> Axis:
    """Whole powers of ten around `low`, `high` and the values, six bins to each; logarithmic.

    Zero and what is below the axis falls into its first bin; `low` and `high` are above zero.
    """
    first = math.floor(math.log10(low))
    last = math.ceil(math.log10(max([high, *values])))
    count = 6 * (last - first)
    edges = tuple(10.0 ** (first + number / 6) for number in range(count + 1))
    return Axis(edges, tuple(10.0**power for power in range(first, last + 1)), log=True)


def round_ticks(highest: float) -> tuple[float, ...]:
    """From zero to at least `highest` in about four round steps."""
    step = round_step((highest or 1.0) / 4)
    return tuple(step * count for count in range(math.ceil((highest or 1.0) / step) + 1))


def round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is not below `least`."""
    unit = 10.0 ** math.floor(math.log10(least))
    return next(factor * unit for factor in _ROUND if factor * unit >= least)
