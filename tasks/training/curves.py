"""The numbers in events.jsonl on their way to MLflow.

The file is the truth, and MLflow is asked how much of it it has. So nothing waits in memory while
MLflow is away, nothing is lost when this process is killed, and a run that is taken up again, here
or on another machine, shows one curve: steps that are done again are the same, and not told twice.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogvx.runs.events import Event, EventTail
from tasks.clients.runs import Point, Runs

# One call takes 1000 points, an event has a few dozen, and is never split: MLflow has it or not.
_POINTS_AT_ONCE = 900
# A curve of each kind of event, which every event of the kind has a point of.
_WATERMARKS = {
    "metrics": "train/epoch",
    "heldout": "heldout/loss",
    "heldout_all": "heldout/loss_all",
    "estimate": "estimate/memory_gib",
    "measured": "measured/memory_gib",
}


class Curves:
    """The curves of one MLflow run, from one file of events."""

    _told: dict[str, int] | None

    def __init__(self, runs: Runs, run_id: str, events: Path) -> None:
        """`run_id` is MLflow's; the file need not be there yet."""
        self._runs = runs
        self._run_id = run_id
        self._events = events
        self._offset = 0
        self._told = None

    def send(self) -> bool:
        """Send what MLflow lacks, in one call.

        Returns:
            Whether there is more to send at once.

        Raises:
            TransientError: MLflow does not answer; the next call begins at the same place.
            ConfigError: MLflow refuses, as when the run was deleted there.
        """
        if self._told is None:
            steps = self._runs.last_steps(self._run_id)
            self._told = {kind: steps.get(name, -1) for kind, name in _WATERMARKS.items()}
        tail, told = EventTail(self._events, offset=self._offset), dict(self._told)
        points: list[Point] = []
        for event in tail.read():
            if event["kind"] in told and event["step"] > told[event["kind"]]:
                told[event["kind"]] = event["step"]
                points += points_of(event)
            if len(points) >= _POINTS_AT_ONCE:
                break
        if points:
            self._runs.log_metrics(self._run_id, points)
        self._offset, self._told = tail.offset, told
        return len(points) >= _POINTS_AT_ONCE


def points_of(event: Event) -> list[Point]:
    """The points of an event: of training, of the held-out clips, of the machine."""
    if event["kind"] == "heldout":
        by_timestep = {f"t{t}": loss for t, loss in event["by_timestep"].items()}
        return _points(event, "heldout", {"loss": event["loss"], **by_timestep})
    if event["kind"] == "heldout_all":
        return _points(event, "heldout", {"loss_all": event["loss_all"]})
    if event["kind"] in ("estimate", "measured"):
        return _points(event, event["kind"], event["values"])
    return [
        *_points(event, "train", event["values"]),
        *_points(event, "system", event.get("system", {})),
    ]


def _points(event: Event, group: str, values: Mapping[str, Any]) -> list[Point]:
    return [
        Point(f"{group}/{name}", value, step=event["step"], when=event["time"])
        for name, value in values.items()
    ]
