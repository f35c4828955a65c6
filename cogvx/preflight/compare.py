"""What a run took, beside what was estimated: both come from the trainer's own events."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from cogvx.preflight.estimate import Estimate
from cogvx.preflight.wording import seconds_text
from cogvx.recipe_sections import Checkpointing

_WARM_UP = 5  # updates whose time says more of compiling and of caches than of training
_SPEEDS = ("samples_per_second", "tokens_per_second", "mfu", "data_wait_share")


class Measured(BaseModel):
    """What the last start of a run took; medians over its log lines, the first ones left out.

    `mfu` is the share of the peak that the model's own arithmetic reached, `utilisation` that of
    all arithmetic, what was computed again included; None on a device whose peak is not known.
    `memory_gib` is the most that a process had: of tensors on a GPU, of main memory on a CPU,
    Python and its libraries included. Speeds are None when training was too short to tell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    on_gpu: bool
    device: str | None
    checkpointing: Checkpointing
    compiles: bool
    memory_gib: float
    seconds_a_step: float | None = None
    samples_per_second: float | None = None
    tokens_per_second: float | None = None
    data_wait_share: float | None = None
    mfu: float | None = None
    utilisation: float | None = None
    estimated_gib: float
    estimated_seconds: float | None

    def numbers(self) -> dict[str, float]:
        """Those that are known, by name, the estimates apart."""
        names = ("memory_gib", "seconds_a_step", "utilisation", *_SPEEDS)
        own = {name: getattr(self, name) for name in names}
        return {name: value for name, value in own.items() if value is not None}


def estimated_numbers(found: Estimate) -> dict[str, float]:
    """What an estimate says in numbers, by the names that `Measured` has for the same."""
    numbers = {
        "seconds_a_step": found.seconds_a_step,
        "memory_gib": found.needs.total,
        "tflop_a_step": sum(size.share * size.tflop for size in found.sizes),
        "adapter_parameters": float(found.adapter_parameters),
        "epochs": found.epochs,
        "heldout_share": found.heldout.share,
        "hours": found.hours,
        "utilisation": found.utilisation,
    }
    return {name: value for name, value in numbers.items() if value is not None}


def measure_run(
    events: Sequence[Mapping[str, Any]],
    found: Estimate,
    *,
    on_gpu: bool,
    memory_gib: float,
    global_batch: int,
) -> Measured:
    """Sum up the last start of a run.

    Args:
        events: All of its events, oldest first.
        found: The estimate of that start.
        on_gpu: Whether it trained on a CUDA device.
        memory_gib: The most that this process had.
        global_batch: Samples of an update.
    """
    windows = _timed_windows(events)
    medians = {name: _median(windows, name) for name in _SPEEDS}
    samples, mfu = medians["samples_per_second"], medians["mfu"]
    # all sizes together: the ratio differs little between them
    again = sum(size.share * size.tflop for size in found.sizes)
    again /= sum(size.share * size.model_tflop for size in found.sizes)
    seen = [system["memory_gib"] for system in _systems(events) if "memory_gib" in system]
    return Measured(
        on_gpu=on_gpu,
        device=found.device,
        checkpointing=found.checkpointing,
        compiles=found.compiles,
        memory_gib=max([memory_gib, *seen]),
        seconds_a_step=global_batch / samples if samples else None,
        utilisation=None if mfu is None else mfu * again,
        estimated_gib=found.needs.total,
        estimated_seconds=found.seconds_a_step,
        **medians,
    )


def comparison(measured: Measured) -> str:
    """Both in one line, as far as they are known."""
    estimated = f"{measured.estimated_gib:.1f} GiB"
    if measured.estimated_seconds is not None:
        estimated = f"{seconds_text(measured.estimated_seconds)} a step, {estimated}"
    taken = f"{measured.memory_gib:.1f} GiB"
    if measured.seconds_a_step is not None:
        taken = f"{seconds_text(measured.seconds_a_step)} a step, {taken}"
    whole = "" if measured.on_gpu else " with Python and its libraries"
    return f"estimated {estimated}; measured {taken}{whole}"


def _this_start(events: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The events since the base was loaded last."""
    starts = [
        index
        for index, event in enumerate(events)
        if event["kind"] == "phase" and event.get("name") == "loading"
    ]
    return events[starts[-1] :] if starts else events


def _systems(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, float]]:
    """Numbers of the machine at each log line of this start."""
    lines = [event for event in _this_start(events) if event["kind"] == "metrics"]
    return [line.get("system", {}) for line in lines]


def _timed_windows(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, float]]:
    """Log lines of this start whose updates all came after its first few."""
    start = _this_start(events)
    first = next((event["step"] for event in start if event["kind"] == "resumed"), 0)
    steps = [first, *(event["step"] for event in start if event["kind"] == "metrics")]
    return [
        system
        for begins, system in zip(steps, _systems(events), strict=False)
        if begins - first >= _WARM_UP
    ]


def _median(windows: Sequence[Mapping[str, float]], name: str) -> float | None:
    values = [window[name] for window in windows if name in window]
    return statistics.median(values) if values else None
