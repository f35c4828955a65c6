"""The trainer's events on their way: numbers to MLflow in batches, the rest to the log."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from cogvx.errors import TransientError
from tasks.clients.registry import Point, Registry
from tasks.progress import Progress

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_FLUSHES = 5.0


class Relay:
    """Hands the trainer's events on: metrics to MLflow in batches, the rest to the log."""

    def __init__(self, registry: Registry, run_id: str) -> None:
        """`run_id` is MLflow's."""
        self._registry = registry
        self._run_id = run_id
        self._points: list[Point] = []
        self._flushed = time.monotonic()
        self._progress = Progress("train", "steps", logger)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take one event, in the order of the file."""
        kind = event["kind"]
        if kind == "progress":
            self._progress(event["step"], event["steps"])
        elif kind == "metrics":
            self._add(event, {f"train/{name}": value for name, value in event["values"].items()})
        elif kind == "heldout":
            values = {f"heldout/t{t}": loss for t, loss in event["by_timestep"].items()}
            self._add(event, {"heldout/loss": event["loss"], **values})
            logger.info("step %d: held-out loss %.4f", event["step"], event["loss"])
        elif kind == "warning":
            logger.warning("trainer: %s", event["text"])
        elif kind == "phase":
            logger.info("trainer: %s", event["name"])
        elif kind == "resumed":
            logger.info("trainer: goes on from step %d", event["step"])
        if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            self._flush_if_possible()

    def flush(self) -> None:
        """Send what is left.

        Raises:
            TransientError: MLflow does not answer; the events stay in the run folder.
        """
        if self._points:
            self._registry.log_metrics(self._run_id, self._points)
        self._points.clear()
        self._flushed = time.monotonic()

    def _add(self, event: Mapping[str, Any], values: Mapping[str, float]) -> None:
        self._points += [
            Point(name, value, step=event["step"], when=event["time"])
            for name, value in values.items()
        ]

    def _flush_if_possible(self) -> None:
        """Training is dearer than a curve: while MLflow is away, points wait here."""
        try:
            self.flush()
        except TransientError as error:
            self._flushed = time.monotonic()
            logger.warning("metrics wait: %s", error)
