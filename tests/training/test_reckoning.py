"""A run says what it should take when it starts, and what it took when it ends."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cogvx.files import read_document
from cogvx.runs.events import Event, EventTail
from cogvx.runs.folder import RunFolder, TrainOutcome
from cogvx.training.__main__ import main
from cogvx.training.reckoning import device_here, peak_flops

NewRun = Callable[..., Path]


@pytest.fixture(scope="module")
def finished(new_run: NewRun) -> Path:
    root = new_run(steps=14, log_every=2, checkpoint_every=14, heldout_every=14)
    assert main([str(root)]) == 0
    return root


def only(root: Path, kind: str) -> Event:
    events = EventTail(RunFolder(root).events).read()
    (event,) = [event for event in events if event["kind"] == kind]
    return event


def test_a_run_starts_with_an_estimate_that_invents_no_time_for_a_cpu(finished: Path) -> None:
    event = only(finished, "estimate")
    assert event["device"] is None
    # six blocks of width 192 at rank 4: 24 layers of 4 x (192 + 192)
    assert event["values"]["adapter_parameters"] == 24 * 4 * 384
    assert event["values"]["epochs"] == 14 * 2 / 4
    assert 0 < event["values"]["memory_gib"] < 1
    assert "seconds_a_step" not in event["values"]
    assert "utilisation" not in event["values"]


def test_a_run_ends_with_what_it_took(finished: Path) -> None:
    event, outcome = (
        only(finished, "measured"),
        read_document(RunFolder(finished).outcome, TrainOutcome),
    )
    measured = outcome.measured
    assert measured is not None
    assert event["values"] == measured.numbers()
    assert event["step"] == 14
    assert measured.seconds_a_step is not None
    assert 0 < measured.seconds_a_step < outcome.seconds
    assert measured.samples_per_second == pytest.approx(2 / measured.seconds_a_step)
    assert measured.memory_gib > measured.estimated_gib
    assert (measured.mfu, measured.utilisation) == (None, None)
    assert event["text"].endswith("with Python and its libraries")


def test_a_run_that_goes_on_is_measured_anew(new_run: NewRun) -> None:
    root = new_run(steps=4)
    assert main([str(root)]) == 0
    RunFolder(root).outcome.unlink()
    assert main([str(root)]) == 0
    kinds = [event["kind"] for event in EventTail(RunFolder(root).events).read()]
    assert kinds.count("estimate") == kinds.count("measured") == 2
    outcome = read_document(RunFolder(root).outcome, TrainOutcome)
    assert outcome.measured is not None
    assert outcome.measured.seconds_a_step is None  # nothing was left to do


def test_a_cpu_has_no_peak_that_is_known() -> None:
    cpu = torch.device("cpu")
    assert device_here(cpu) is None
    assert peak_flops(cpu, "bfloat16") is None
