"""The trainer's events on their way: numbers to MLflow, progress to Prefect's UI, words to the log.

MLflow is fed by a thread of its own, from the file that the trainer writes: however slow it is, or
absent, nobody waits for it before training has ended.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from prefect.artifacts import create_markdown_artifact

from cogvx.errors import CogvxError, TransientError
from cogvx.runs.events import history
from cogvx.runs.folder import RunFolder
from tasks.clients.runs import Runs
from tasks.pages.progress import Progress, is_watched
from tasks.pages.shown import shown
from tasks.training.curves import Curves
from tasks.training.training_table import training_markdown

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_SENDS = 5.0
_SECONDS_BETWEEN_TABLES = 60.0
# What a call to MLflow that is under way may still take, when all went well and when not.
_SECONDS_TO_END, _SECONDS_TO_FAIL = 60.0, 5.0

_WORDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "phase": lambda event: f"trainer: {event['name']}",
    "resumed": lambda event: f"trainer: goes on from step {event['step']}",
    "forked": lambda event: f"trainer: begins with step {event['step']} of run {event['run'][:12]}",
    "fit": lambda event: f"trainer: {event['why']}",
    "heldout": lambda event: (
        f"step {event['step']}: held-out loss {event['loss']:.4f} over {event['clips']} clip(s)"
    ),
    "skipped": lambda event: (
        f"step {event['step']}: {event['total']} update(s) skipped so far, "
        f"{event['in_a_row']} in a row; {event['updates'][-1]['reason']}"
    ),
    "measured": lambda event: f"trainer: {event['text']}",
    "verified": lambda event: f"trainer: {event['text']}",
    "warning": lambda event: f"trainer: {event['text']}",
}
_ALARMING = frozenset({"skipped", "warning"})


class Relay:
    """Hands the trainer's events on while the block lasts; call it with each of them."""

    def __init__(self, runs: Runs, run_id: str, folder: RunFolder) -> None:
        """`run_id` is MLflow's."""
        self._events = folder.events
        self._curves = Curves(runs, run_id, folder.events)
        self._progress = Progress("train", "steps", logger)
        self._ended = threading.Event()
        # a daemon: a process that is told to end does not wait for MLflow either
        self._thread = threading.Thread(target=self._send_on, name="curves", daemon=True)
        self._table_shown = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Send what is left. After an error, which comes first, that is only tried.

        Raises:
            TransientError: MLflow does not answer; the numbers stay in the run folder.
            ConfigError: MLflow refuses them.
        """
        self._ended.set()
        if kind is None:
            self._show_table(every=0.0)
        try:
            self._finish(_SECONDS_TO_END if kind is None else _SECONDS_TO_FAIL)
        except CogvxError as error:
            if kind is None:
                raise
            logger.warning("curves stay in %s: %s", self._events, error)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take one event, in the order of the file; its numbers find their own way."""
        kind = event["kind"]
        if kind == "progress":
            self._progress(event["step"], event["steps"])
        elif kind in _WORDS:
            level = logging.WARNING if kind in _ALARMING else logging.INFO
            logger.log(level, "%s", _WORDS[kind](event))
        if kind == "heldout":
            self._show_table(every=_SECONDS_BETWEEN_TABLES)

    def _finish(self, seconds: float) -> None:
        """Wait for the thread, which may be in a call, and send the rest."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise TransientError(
                f"MLflow has not answered for {seconds:.0f} s; the curves are in {self._events}, "
                "and go there when this is run again"
            )
        while self._curves.send():
            pass

    def _send_on(self) -> None:
        """Send until the end; what MLflow did not take is tried again."""
        failed = False
        while not self._ended.wait(_SECONDS_BETWEEN_SENDS):
            try:
                while self._curves.send() and not self._ended.is_set():
                    pass
                failed = False
            except CogvxError as error:
                if not failed:
                    logger.warning("curves wait in %s: %s", self._events, error)
                failed = True

    def _show_table(self, *, every: float) -> None:
        """Keep a table in the Prefect UI; each version of it stays there, so they are few."""
        now = time.monotonic()
        if not is_watched() or (self._table_shown and now - self._table_shown < every):
            return
        table = training_markdown(history(self._events))
        if table:
            self._table_shown = now
            with shown("losses"):
                create_markdown_artifact(table, key="training", description="Losses so far")
