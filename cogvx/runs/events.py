"""events.jsonl: what the trainer says while it runs, one JSON object a line, oldest first.

Every event has `time` (seconds since 1970), `kind`, and what the kind needs:

    phase       name: loading, training, exporting, verifying, completed
    resumed     step: the checkpoint that training goes on from; events of later steps that stand
                above this line were undone, and come again with the same values
    forked      run, step: whose weights a new run begins with
    fit         checkpointing, compile, base_weights, attention, prefetch: as they were chosen;
                needs_gib; why: a sentence
    estimate    step, device: name or null; values: {name: number}, what this start should take
    measured    step, device, values: {name: number}, what it took; text: both in a line
    progress    step, steps, eta_seconds, samples_per_second
    metrics     step, values: {name: number} of the training itself, the same whenever it is done;
                system: {name: number} of this machine
    heldout     step, loss, by_timestep: {timestep: loss}, clips; after `resumed` that of its very
                step may come again with the same values
    heldout_all step, loss_all: the loss on all held-out clips after so many updates, where
                `heldout` is over the clips of the curve alone
    skipped     step, updates: [{step, reason}] that moved no weight, new since the last log
                line or checkpoint; total: of the run; in_a_row: up to this step
    verified    values: {modules, layer_error, max_error, strength_ratio, effect} of the adapter's
                file after plain diffusers reloaded it; text: all in a line
    checkpoint  step, folder: its name below checkpoints/
    warning     text

The file is only ever appended to, so it can be followed while it grows. A line that a killed writer
left unfinished is skipped by readers and closed by the next writer.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

Event = dict[str, Any]


class Recorder(Protocol):
    """Where the trainer's events go."""

    def write(self, kind: str, **values: object) -> None:
        """Record one event."""
        ...


class EventWriter:
    """Appends events, each with the system before the call returns.

    They outlive a process that is killed; a machine that loses power may lose the last ones.
    """

    def __init__(self, path: Path) -> None:
        """`path` may hold the events of earlier tries."""
        self.path = path
        self._close_torn_line()

    def write(self, kind: str, **values: object) -> None:
        """Record one event.

        Raises:
            ValueError: A number is not finite, which JSON cannot say.
        """
        line = json.dumps({"time": time.time(), "kind": kind, **values}, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _close_torn_line(self) -> None:
        if not self.path.is_file() or not self.path.stat().st_size:
            return
        with self.path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


class Silent:
    """Records nothing: what every process but the first uses."""

    def write(self, kind: str, **values: object) -> None:
        """Forget the event."""


class EventTail:
    """Reads a growing file of events, each event once."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        """`path` need not exist yet; `offset` is where an earlier reader stood."""
        self.path = path
        self.offset = offset

    def read(self) -> Iterator[Event]:
        """Events that were finished since the last call."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written
                self.offset += len(line)
                event = _parse(line)
                if event is not None:
                    yield event


def history(path: Path) -> list[Event]:
    """All events, without those that a later `resumed` undid."""
    kept: list[Event] = []
    for event in EventTail(path).read():
        if event["kind"] == "resumed":
            kept = [earlier for earlier in kept if _step(earlier) <= event["step"]]
        kept.append(event)
    return kept


def _step(event: Mapping[str, Any]) -> int:
    return int(event.get("step", 0))


def _parse(line: bytes) -> Event | None:
    """An event, or None for a line that a killed writer tore."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "kind" in event else None
