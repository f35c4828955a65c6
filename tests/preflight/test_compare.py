"""What was measured is summed up from the events of the last start alone."""

from typing import Any

import pytest

from cogvx.preflight.compare import comparison, estimated_numbers, measure_run
from cogvx.preflight.devices import named_device
from cogvx.preflight.estimate import Circumstances, Estimate, estimate
from cogvx.variants import PUBLISHED
from tests.preflight.toys import recipe

LOADING = {"kind": "phase", "name": "loading"}


def line(step: int, samples: float, **system: float) -> dict[str, Any]:
    return {"kind": "metrics", "step": step, "system": {"samples_per_second": samples, **system}}


@pytest.fixture
def estimated() -> Estimate:
    made = recipe("CogVideoX-5b", compute={"checkpointing": "full"})
    given = Circumstances(named_device("H100"))
    return estimate(made, PUBLISHED["CogVideoX-5b"], given=given)


def summed(events: list[dict[str, Any]], found: Estimate) -> Any:
    return measure_run(events, found, on_gpu=True, memory_gib=18.0, global_batch=2)


def test_the_first_updates_do_not_count(estimated: Estimate) -> None:
    events = [LOADING, line(2, 0.01), line(4, 0.02), line(6, 1.0), line(8, 2.0), line(10, 4.0)]
    # the line of step 6 began with update 5, that of step 8 with update 7
    assert summed(events, estimated).samples_per_second == 3.0
    assert summed(events, estimated).seconds_a_step == pytest.approx(2 / 3)


def test_a_run_that_is_too_short_tells_no_speed(estimated: Estimate) -> None:
    found = summed([LOADING, line(4, 1.0)], estimated)
    assert found.seconds_a_step is None
    assert found.memory_gib == 18.0
    assert comparison(found).startswith("estimated 2.83 s a step, ")
    assert comparison(found).endswith("measured 18.0 GiB")


def test_only_the_last_start_counts(estimated: Estimate) -> None:
    first = [LOADING, line(10, 9.0), line(20, 9.0)]
    then = [LOADING, {"kind": "resumed", "step": 20}, line(22, 0.1), line(30, 1.0), line(40, 1.0)]
    assert summed(first + then, estimated).samples_per_second == 1.0


def test_all_arithmetic_counts_for_the_utilisation_and_the_model_s_for_mfu(
    estimated: Estimate,
) -> None:
    events = [LOADING, line(10, 1.0, mfu=0.5), line(20, 1.0, mfu=0.3, memory_gib=19.5)]
    found = summed(events, estimated)
    assert found.mfu == 0.3
    # of 1,259 TFLOP in full, 922 are not computed again
    assert found.utilisation == pytest.approx(0.3 * 1259 / 922, rel=0.01)
    assert found.memory_gib == 19.5


def test_both_stand_in_one_line(estimated: Estimate) -> None:
    events = [LOADING, line(10, 1.0), line(20, 0.64)]
    found = summed(events, estimated)
    gib = f"{estimated.needs.total:.1f}"
    said = f"estimated 2.83 s a step, {gib} GiB; measured 3.12 s a step, 18.0 GiB"
    assert comparison(found) == said
    on_cpu = found.model_copy(update={"on_gpu": False})
    assert comparison(on_cpu) == f"{said} with Python and its libraries"


def test_estimated_and_measured_have_the_same_names(estimated: Estimate) -> None:
    found = summed([LOADING, line(10, 1.0, mfu=0.4), line(20, 1.0, mfu=0.4)], estimated)
    shared = {"seconds_a_step", "memory_gib", "utilisation"}
    assert shared <= estimated_numbers(estimated).keys() & found.numbers().keys()
