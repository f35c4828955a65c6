"""Progress that a person can follow: a line every few seconds, and a bar in the Prefect UI."""

import logging
import re
import time
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext

from cogvx.pages.remarks import duration
from tasks.pages.shown import shown

# The longer it takes, the more seldom a line comes: of a day some 1500 are kept by the server.
_SECONDS_BETWEEN_LINES, _MOST_SECONDS_BETWEEN_LINES = 5.0, 60.0
_PARTS = 60.0  # a line for each such part of the time so far


class Progress:
    """Reports how far one piece of work has come; call it with what is done and the total."""

    def __init__(self, what: str, unit: str, logger: logging.Logger) -> None:
        """`what` names the work, `unit` what is counted."""
        self._what = what
        self._unit = unit
        self._logger = logger
        self._said = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._artifact: UUID | None = None

    def __call__(self, done: int, total: int, detail: str = "") -> None:
        """Say where the work is, unless that was said a moment ago."""
        now = time.monotonic()
        self._first = self._first or (now, done)
        since = now - self._first[0]
        pause = max(_SECONDS_BETWEEN_LINES, since / _PARTS)
        if total < 1 or (
            done < total and now - self._said < min(pause, _MOST_SECONDS_BETWEEN_LINES)
        ):
            return
        self._said = now
        line = f"{self._what}: {done}/{total} {self._unit}{self._pace(done, total)}"
        self._logger.info("%s%s", line, f" - {detail}" if detail else "")
        self._show(100.0 * done / total, line)

    def _pace(self, done: int, total: int) -> str:
        """The pace since the first call, as what came before it was preparation; what is left."""
        began, already = self._first or (0.0, 0)
        seconds = time.monotonic() - began
        if done <= already or seconds <= 0:
            return ""
        rate = (done - already) / seconds
        left = f", {duration((total - done) / rate)} left" if done < total else ""
        return f", {rate:.{0 if rate >= 10 else 2}f} {self._unit}/s{left}"

    def _show(self, percent: float, line: str) -> None:
        if not is_watched():
            return
        with shown(self._what):
            if self._artifact is None:
                key = re.sub(r"[^a-z0-9]+", "-", self._what.lower()).strip("-")
                created = create_progress_artifact(percent, key=key, description=line)
                self._artifact = created if isinstance(created, UUID) else None
            else:
                update_progress_artifact(self._artifact, percent, description=line)


def is_watched() -> bool:
    """Whether a flow or a task is running, so that an artifact has a place in the Prefect UI."""
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None
