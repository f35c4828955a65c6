"""Sums over a window: the same wherever they were cut, and each band by itself."""

import math
import random

import pytest

from cogvx.runs.tally import BANDS, Seen, Tally, band_names

T = 1000


def updates(count: int, batch: int = 3) -> list[Seen]:
    draw = random.Random(5)
    return [
        Seen(
            losses=[draw.random() * 10 ** draw.randint(-6, 6) for _ in range(batch)],
            timesteps=[draw.randrange(T) for _ in range(batch)],
            grad_norm=draw.random(),
        )
        for _ in range(count)
    ]


def counted(*parts: list[Seen]) -> Tally:
    tally = Tally()
    for part in parts:
        tally = tally.plus(part, timesteps=T)
    return tally


def test_wherever_a_window_is_cut_it_comes_out_with_the_same_bits() -> None:
    seen = updates(40)
    whole = counted(seen)
    for cut in range(41):
        kept = Tally.model_validate_json(counted(seen[:cut]).model_dump_json())
        assert kept.plus(seen[cut:], timesteps=T) == whole


def test_means_are_over_samples_and_each_band_has_its_own() -> None:
    seen = updates(60)
    values = counted(seen).values(timesteps=T)
    losses = [loss for update in seen for loss in update.losses]
    timesteps = [timestep for update in seen for timestep in update.timesteps]
    assert values["loss"] == pytest.approx(sum(losses) / len(losses))
    for band, name in enumerate(band_names(T)):
        inside = [
            loss
            for loss, timestep in zip(losses, timesteps, strict=True)
            if 125 * band <= timestep < 125 * (band + 1)
        ]
        assert values[name] == pytest.approx(sum(inside) / len(inside))
    norms = [update.grad_norm for update in seen]
    assert values["grad_norm"] == pytest.approx(sum(norms) / len(norms))
    assert values["grad_norm_max"] == max(norms)


def test_bands_are_named_by_their_timesteps() -> None:
    assert band_names(T)[0] == "loss_t000_124"
    assert band_names(T)[-1] == "loss_t875_999"
    ends = [tuple(map(int, name.removeprefix("loss_t").split("_"))) for name in band_names(50)]
    for band, (first, last) in enumerate(ends):
        assert {t * BANDS // 50 for t in range(first, last + 1)} == {band}
    assert [first for first, _ in ends[1:]] == [last + 1 for _, last in ends[:-1]]


def test_a_band_that_saw_nothing_is_absent_until_it_does() -> None:
    one = Seen(losses=[2.0], timesteps=[999], grad_norm=1.0)
    assert set(counted([one]).values(timesteps=T)) == {
        *("loss", "loss_t875_999", "loss_t875_999_running", "grad_norm", "grad_norm_max")
    }
    later = counted([one]).next_window().values(timesteps=T)
    assert later == {"loss_t875_999_running": 2.0}


def test_the_balanced_loss_does_not_depend_on_which_timesteps_were_drawn() -> None:
    each = [Seen([float(band)], [125 * band + 7], 1.0) for band in range(BANDS)]
    often = [*each, *[each[7]] * 20]
    assert counted(each[:7]).values(timesteps=T).keys().isdisjoint({"loss_balanced"})
    assert counted(each).values(timesteps=T)["loss_balanced"] == 3.5
    assert counted(often).values(timesteps=T)["loss_balanced"] == 3.5
    assert counted(often).values(timesteps=T)["loss"] > 5


def test_a_running_mean_is_the_plain_mean_first_and_then_forgets_slowly() -> None:
    ones = [Seen([1.0], [0], 1.0)] * 49
    tally = counted([Seen([51.0], [0], 1.0)], ones)
    assert tally.running[0] == pytest.approx(2.0)
    after = tally.plus([Seen([1.0], [0], 1.0)] * 50, timesteps=T)
    assert after.running[0] == pytest.approx(1 + 0.98**50)


def test_what_is_no_number_counts_nowhere_and_is_told() -> None:
    odd = Seen([math.nan, 3.0], [0, 1], math.inf)
    values = counted([odd]).values(timesteps=T)
    assert (values["loss"], values["loss_t000_124"]) == (3.0, 3.0)
    assert "grad_norm" not in values
    assert not odd.is_finite
    assert all(update.is_finite for update in updates(3))
    assert counted([Seen([math.nan], [0], math.nan)]).values(timesteps=T) == {}
