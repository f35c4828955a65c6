"""Every value has a bin, and the edges lie where they are written."""

import numpy as np
import pytest

from cogvx.pages.axes import even_axis, ratio_axis, round_ticks


@pytest.mark.parametrize("high", [1, 7, 226, 249, 8000])
def test_even_bins_hold_everything_and_are_whole(high: float) -> None:
    axis = even_axis(high, 26)
    assert len(axis.edges) <= 27
    assert axis.edges[-1] >= high
    assert all(edge == int(edge) or edge * 2 == int(edge * 2) for edge in axis.edges)
    assert max(axis.ticks) <= axis.edges[-1]


def test_bins_agree_with_numpy() -> None:
    values = np.random.default_rng(0).lognormal(1, 1.5, 500).clip(0.02, 240).tolist()
    for axis in (even_axis(max(values), 20), ratio_axis(values, low=0.01, high=10.0)):
        counts, _ = np.histogram(values, bins=axis.edges)
        mine = np.bincount([axis.bin(value) for value in values], minlength=len(counts))
        assert mine.tolist() == counts.tolist()


def test_a_logarithmic_axis_spaces_by_ratio_and_brings_zero_in() -> None:
    axis = ratio_axis([0.0, 0.3, 250.0], low=0.01, high=10.0)
    assert (axis.edges[0], axis.edges[-1]) == (pytest.approx(0.01), pytest.approx(1000.0))
    assert axis.place(0.0) == 0.0
    assert axis.bin(0.0) == 0
    assert axis.place(1.0) - axis.place(0.1) == pytest.approx(axis.place(10.0) - axis.place(1.0))


def test_ticks_are_round_and_reach_the_highest() -> None:
    assert round_ticks(0.9) == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert round_ticks(0.0)[-1] >= 1.0
