"""The table of a run's children on its page in Prefect: how each fares, and where to look."""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from uuid import UUID

from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.context import FlowRunContext

from tasks.pages.shown import shown
from tasks.pools.children import Seen

# A child that runs on is shown anew as often, for its duration.
_AGAIN_SECONDS = 60.0


class Stages:
    """One table of one flow run, written when something changed; elsewhere nothing is shown."""

    def __init__(self, what: str = "stages") -> None:
        """`what` names the table."""
        self._what = what
        self._rows: dict[str, Seen] = {}
        self._artifact: UUID | None = None
        self._written = float("-inf")

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[str], None]]:
        """Show a stage that runs in this process, while the block lasts and how it ended.

        What the block is given takes the address of the stage's page, when that is known.
        """
        began, pages = time.monotonic(), [""]

        def show(state: str, told: str = "") -> None:
            self.show([Seen(name, state, time.monotonic() - began, pages[-1], told)])

        show("Running")
        try:
            yield pages.append
        except BaseException as error:
            if isinstance(error, Exception):  # a signal has no time for pages
                show("Failed", str(error) or type(error).__name__)
            raise
        show("Completed")

    def show(self, seen: Sequence[Seen]) -> None:
        """Show children as they are now, beside those that were shown before."""
        before = [replace(row, seconds=0.0) for row in self._rows.values()]
        self._rows |= {each.name: each for each in seen}
        now = [replace(row, seconds=0.0) for row in self._rows.values()]
        is_old = time.monotonic() - self._written > _AGAIN_SECONDS
        if FlowRunContext.get() is None or (before == now and not is_old):
            return
        self._written = time.monotonic()
        rows = [_row(row) for row in self._rows.values()]
        with shown(self._what):
            if self._artifact is None:
                key = re.sub(r"[^a-z0-9]+", "-", self._what.lower()).strip("-")
                made = create_table_artifact(rows, key=key, description=self._what)
                self._artifact = made if isinstance(made, UUID) else None
            else:
                with get_client(sync_client=True) as client:
                    # as text, which is what Prefect makes of a table when it is created
                    update = ArtifactUpdate(data=json.dumps(rows))
                    client.update_artifact(self._artifact, update)


def _row(seen: Seen) -> dict[str, object]:
    return {
        "what": seen.name,
        "state": seen.state,
        "duration": _duration(seen.seconds),
        "page": seen.page,
        "why": seen.told,
    }


def _duration(seconds: float) -> str:
    """Whole seconds, minutes and hours: 7 s, 3 min 20 s, 26 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
