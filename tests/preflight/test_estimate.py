"""Estimates agree with what is known, and what cannot fit is refused with what would."""

from dataclasses import replace

import pytest

from cogvx.preflight.compare import estimated_numbers
from cogvx.preflight.devices import named_device
from cogvx.preflight.estimate import Circumstances, device_problems, estimate
from cogvx.preflight.heldout import HeldoutWindows, passes
from cogvx.preflight.wording import (
    circumstances,
    estimate_rows,
    heldout_text,
    run_text,
    survey,
)
from cogvx.variants import PUBLISHED
from tests.preflight.toys import recipe

FACTS = PUBLISHED["CogVideoX-5b"]


def on(gpu: str, **known: float) -> Circumstances:
    return Circumstances(named_device(gpu), **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "gpu", "seconds"),
    [
        # 1,241 and 6,012 TFLOP without adapters, at 45 % of 989
        ("CogVideoX-5b", "H100", 2.8),
        ("CogVideoX1.5-5B", "H100", 13.5),
    ],
)
def test_a_step_takes_as_long_as_its_arithmetic(name: str, gpu: str, seconds: float) -> None:
    made = recipe(name, compute={"checkpointing": "full"})
    found = estimate(made, PUBLISHED[name], given=on(gpu))
    assert found.seconds_a_step == pytest.approx(seconds, rel=0.03)
    assert found.utilisation == 0.45
    assert not found.is_measured
    assert "at 45% of the peak, assumed" in run_text(found)


def test_what_was_measured_before_replaces_the_assumption() -> None:
    made = recipe("CogVideoX-5b")
    assumed = estimate(made, FACTS, given=on("H100"))
    known = estimate(made, FACTS, given=on("H100", utilisation=0.30))
    assert known.seconds_a_step == pytest.approx((assumed.seconds_a_step or 0) * 1.5)
    assert known.is_measured
    assert "at 30% of the peak, as measured before" in run_text(known)


def test_hours_epochs_and_cost_follow_from_the_steps() -> None:
    made = recipe("CogVideoX-5b", train={"steps": 2000, "global_batch": 4, "processes": 2})
    found = estimate(made, FACTS, given=on("H100", clips=80, price=2.5))
    assert found.epochs == 2000 * 4 / 80
    trained = 2000 * (found.seconds_a_step or 0) / 3600
    assert found.hours == pytest.approx(trained / (1 - found.heldout.share))
    assert found.cost == pytest.approx((found.hours or 0) * 2.5 * 2)  # two GPUs
    alone = estimate(
        recipe("CogVideoX-5b", train={"steps": 2000, "global_batch": 4}), FACTS, given=on("H100")
    )
    assert alone.seconds_a_step == pytest.approx(2 * (found.seconds_a_step or 0))
    assert (alone.epochs, alone.cost) == (None, None)


def test_accumulation_costs_time_and_no_memory() -> None:
    one, four = (
        estimate(recipe("CogVideoX-5b", train={"global_batch": batch}), FACTS, given=on("H100"))
        for batch in (1, 4)
    )
    assert one.needs == four.needs
    assert four.seconds_a_step == pytest.approx(4 * (one.seconds_a_step or 0))


def test_every_bucket_is_told_and_the_largest_decides_the_memory() -> None:
    small = recipe("CogVideoX-5b", video={"frames": 17})
    both = recipe("CogVideoX-5b", video={"frames": 17, "buckets": ("49x480x720",)})
    large = estimate(recipe("CogVideoX-5b"), FACTS, given=on("H100"))
    found = estimate(both, FACTS, given=on("H100"))
    assert [size.tokens for size in found.sizes] == [5 * 30 * 45 + 226, 17_776]
    assert found.needs == large.needs
    low, high = estimate(small, FACTS, given=on("H100")).seconds_a_step, large.seconds_a_step
    assert found.seconds_a_step == pytest.approx(((low or 0) + (high or 0)) / 2)


def test_sizes_weigh_as_many_windows_as_they_have() -> None:
    made = recipe("CogVideoX-5b", video={"frames": 17, "buckets": ("49x480x720",)})
    windows = {"17x480x720": 30, "49x480x720": 10}
    found = estimate(made, FACTS, given=replace(on("H100"), by_size=windows))
    low, high = (size.seconds or 0.0 for size in found.sizes)
    assert [size.share for size in found.sizes] == [0.75, 0.25]
    assert found.seconds_a_step == pytest.approx(0.75 * low + 0.25 * high)
    assert estimated_numbers(found)["tflop_a_step"] == pytest.approx(
        0.75 * found.sizes[0].tflop + 0.25 * found.sizes[1].tflop
    )


def test_held_out_passes_count_in_hours_and_cost() -> None:
    train = {"steps": 1001, "global_batch": 2, "heldout_every": 100, "heldout_strata": 8}
    made = recipe("CogVideoX-5b", train={**train, "heldout_clips": 3})
    counted = replace(on("H100", price=2.0), heldout=HeldoutWindows(curve=6, total=20))
    found = estimate(made, FACTS, given=counted)
    # ten points over six windows, and all twenty twice; forward alone is 337 TFLOP
    seconds = 8 * (10 * 6 + 2 * 20) * 337.5e12 / (989.4e12 * 0.45)
    trained = 1001 * (found.seconds_a_step or 0)
    assert found.hours == pytest.approx((trained + seconds) / 3600, rel=0.005)
    assert found.heldout.share == pytest.approx(seconds / (trained + seconds), rel=0.02)
    assert found.cost == pytest.approx((found.hours or 0) * 2.0)
    assert f"{found.heldout.share:.1%} of the time: 10 points over 6 windows" in heldout_text(found)
    none = estimate(made, FACTS, given=replace(counted, heldout=HeldoutWindows(0, 0)))
    assert none.hours == pytest.approx(trained / 3600)
    assert heldout_text(none) == "nothing"


def test_held_out_windows_are_shared_out_over_the_processes() -> None:
    made = recipe(
        "CogVideoX-5b",
        train={"global_batch": 4, "processes": 4, "heldout_every": 100, "heldout_strata": 2},
    )
    assert passes(made, HeldoutWindows(curve=4, total=9)) == 2 * (9 * 1 + 2 * 3)


@pytest.mark.parametrize(
    ("dataset", "most", "clips", "expected"),
    [
        ({}, 2, 90, HeldoutWindows(2, 10)),
        ({}, 0, 90, HeldoutWindows(10, 10)),
        ({}, 2, 9, HeldoutWindows(2, 2)),
        ({}, 3, None, HeldoutWindows(3, 3)),
        ({"heldout_share": 0.0, "min_heldout": 0}, 3, None, HeldoutWindows(0, 0)),
        ({"heldout_share": 0.0, "min_heldout": 0}, 3, 90, HeldoutWindows(0, 0)),
    ],
)
def test_clips_held_out_follow_from_those_to_train_on(
    dataset: dict[str, float], most: int, clips: int | None, expected: HeldoutWindows
) -> None:
    made = recipe("CogVideoX-5b", dataset=dataset, train={"heldout_clips": most})
    assert HeldoutWindows.expected(made, clips) == expected


def test_on_a_cpu_memory_is_told_and_no_time_is_invented() -> None:
    made = recipe("CogVideoX-5b")
    found = estimate(made, FACTS, given=Circumstances(on_gpu=False, clips=10, price=3.0))
    assert found.device is None
    assert found.needs.total > 10
    assert (found.seconds_a_step, found.hours, found.cost, found.utilisation) == (None,) * 4
    assert found.epochs == 100


@pytest.mark.parametrize(
    ("gpu", "sections", "where", "use"),
    [
        ("A100-80", {"compute": {"checkpointing": "none"}}, "compute.checkpointing", '"full"'),
        ("H100", {"train": {"micro_batch": 32, "global_batch": 32}}, "compute.preset", "= 1"),
        ("L4", {"train": {"micro_batch": 2, "global_batch": 2}}, "compute.preset", "micro_batch"),
        ("RTX 4090", {"lora": {"rank": 1024, "alpha": 512}}, "compute.preset", "lora.rank"),
        ("V100-32", {}, "base.dtype", "2020 or later"),
        ("H200", {"compute": {"attention": "math"}}, "compute.attention", 'use "auto"'),
        (
            "L4",
            {"compute": {"attention": "math"}, "lora": {"rank": 128}},
            "compute.attention",
            "auto",
        ),
        (
            "A100-80",
            {"compute": {"base_weights": "float8", "compile": True}},
            "compute.base_weights",
            "int8",
        ),
    ],
)
def test_what_cannot_be_trained_on_a_gpu_is_refused_with_what_can(
    gpu: str, sections: dict[str, dict[str, object]], where: str, use: str
) -> None:
    found = device_problems(recipe("CogVideoX-5b", **sections), FACTS, named_device(gpu))
    assert [problem.where for problem in found] == [where]
    assert use in found[0].use


def test_all_that_is_wrong_with_a_gpu_is_said_at_once() -> None:
    found = device_problems(recipe("CogVideoX-5b"), FACTS, named_device("T4"))
    assert [problem.where for problem in found] == ["base.dtype", "compute.preset"]


def test_2b_in_float16_trains_on_a_t4() -> None:
    made = recipe("CogVideoX-2b")
    assert device_problems(made, PUBLISHED["CogVideoX-2b"], named_device("T4")) == []


def test_the_small_preset_brings_5b_to_16_gib() -> None:
    made = recipe("CogVideoX-5b", compute={"preset": "small"})
    found = estimate(made, FACTS, given=on("L4"))
    assert 10 < found.needs.total < 16
    assert found.base_weights == "float8"


def test_without_a_gpu_each_common_one_gets_a_line_with_what_fits_it() -> None:
    lines = {line.device.name: line for line in survey(recipe("CogVideoX-5b"), FACTS, on("H100"))}
    h200, l4, t4 = (lines[name].presets for name in ("H200", "L4", "T4"))
    assert h200["fast"] is not None
    assert h200["fast"].checkpointing == "none"
    assert l4["balanced"] is not None
    assert l4["balanced"].checkpointing == "full"
    assert set(t4.values()) == {None}


def test_rows_fit_on_a_screen() -> None:
    given = circumstances("H100", price=2.5, clips=80)
    rows = estimate_rows(estimate(recipe("CogVideoX-5b"), FACTS, given=given))
    assert all(len(name) < 9 and len(fact) < 110 for name, fact in rows)
    assert [name for name, _ in rows] == ["weights", "memory", "way", "a step", "run", "held out"]
