"""What a person beside `cogvx up` is told: warnings of logs, states of runs, coming schedules."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from cogvx.errors import TransientError
from deployments.up.logs import LogTail
from deployments.up.runs import Names, Told, is_bad, next_runs, talking_to, under_way
from deployments.up.state import now

logger = logging.getLogger(__name__)

_SHOWN_SCHEDULES = 5


class Follower:
    """Tells what is new since it was told before; its own faults are nobody's concern."""

    def __init__(self, prefect: str, logs: Mapping[str, Path], own: Path) -> None:
        """`logs` are told from, by name; `own` is only kept from growing."""
        self._prefect = prefect
        self._tails = {name: LogTail(log) for name, log in logs.items()}
        self._own = LogTail(own)
        self._told = Told()
        self._untold = set[Path]()
        self._since = now()

    def tell_logs(self) -> None:
        """Warnings and errors that were printed; cuts logs that have become too long."""
        for name, tail in self._tails.items():
            with self._patiently(tail):
                for line in tail.important():
                    logger.warning("%s: %s", name, line)
                tail.bound()
        with self._patiently(self._own):
            self._own.bound()

    @contextmanager
    def _patiently(self, tail: LogTail) -> Iterator[None]:
        """A full disk, say, is told once, and no reason to end what runs."""
        try:
            yield
        except OSError as error:
            if tail.log not in self._untold:
                logger.warning(
                    "%s cannot be read or cut (%s); make room there", tail.log, error.strerror
                )
            self._untold.add(tail.log)
        else:
            self._untold.discard(tail.log)

    def tell_runs(self) -> None:
        """What became of runs. A server that does not answer now is asked again the next time."""
        until = now()
        with suppress(TransientError), talking_to(self._prefect, patiently=False) as client:
            for run, words in self._told.news(client, under_way(client, self._since)):
                logger.log(logging.WARNING if is_bad(run) else logging.INFO, words)
            self._since = until


def schedule_lines(client: SyncPrefectClient) -> list[str]:
    """When schedules start something next.

    Raises:
        TransientError: The server did not answer.
    """
    runs = next_runs(client, _SHOWN_SCHEDULES)
    if not runs:
        return ["next      nothing is scheduled; `cogvx trigger NAME` starts a deployment"]
    names = Names()
    return [f"next      {_moment(run)}  {names.of(client, run)}" for run in runs]


def _moment(run: FlowRun) -> str:
    when: datetime | None = run.expected_start_time
    return "?" if when is None else f"{when.astimezone():%a %d %b %H:%M}"
