"""What of `cogvx up` runs, since when, what it does, and where to look when something does not."""

from collections.abc import Iterator
from datetime import datetime

from cogvx.errors import TransientError
from deployments.up.follow import schedule_lines
from deployments.up.runs import WORKER_SILENCE, Names, polls, talking_to, under_way, words_for
from deployments.up.services import PREFECT, worker_name
from deployments.up.state import Desk, ServiceState, UpState, now
from tasks.clients.servers import answers

Row = tuple[str, str]


class Status:
    """One look at everything, as rows to print; and whether all of it is well."""

    rows: list[Row]
    is_well: bool

    def __init__(self, state: UpState) -> None:
        """Look, which takes a few seconds if something does not answer."""
        self.is_well = state.is_kept and state.phase == "up"
        self.rows = [("cogvx up", _keeper_line(state))]
        self.rows += [("Prefect", state.prefect), ("MLflow", state.mlflow)]
        self.rows += [("S3", f"{state.s3}, in memory")] if state.s3 else []
        self.rows += [
            ("logs", str(state.home / "up")),
            ("catalog", str(state.catalog)),
            ("folder", f"{state.folder}, which relative paths of recipes mean"),
        ]
        well = {one.name: self._look(one) for one in state.services if not one.pool}
        if state.mlflow not in {one.health.removesuffix("/health") for one in state.services}:
            self._note("MLflow", "is not of this `up`", is_well=answers(f"{state.mlflow}/health"))
        if well.get(PREFECT):
            self._ask_prefect(state)
        else:
            for one in state.services:
                if one.pool:
                    self._note(one.title, "unknown, as Prefect's server is down", is_well=False)

    def _look(self, one: ServiceState) -> bool:
        lives = _lives(one)
        is_well = lives and answers(one.health)
        words = "well" if is_well else "does not answer" if lives else "down"
        self._note(one.title, _service_line(one, words), is_well=is_well)
        return is_well

    def _ask_prefect(self, state: UpState) -> None:
        with talking_to(state.prefect, patiently=False) as client:
            try:
                for one in state.services:
                    if one.pool:
                        since = now() - WORKER_SILENCE
                        lives = _lives(one)
                        does = polls(client, one.pool, worker_name(one.name), since=since)
                        words = f"polls {one.pool}" if lives and does else "down"
                        words = "does not poll" if lives and not does else words
                        self._note(one.title, _service_line(one, words), is_well=lives and does)
                names = Names()
                for run in under_way(client):
                    began = f", since {_since(run.start_time)}" if run.start_time else ""
                    self.rows.append(("run", f"{words_for(run, names.of(client, run))}{began}"))
                self.rows += [
                    ("next", line.removeprefix("next").strip()) for line in schedule_lines(client)
                ]
            except TransientError as error:
                self._note("Prefect", str(error), is_well=False)

    def _note(self, title: str, words: str, *, is_well: bool) -> None:
        self.rows.append((title, words))
        self.is_well &= is_well


def where_lines(state: UpState) -> Iterator[str]:
    """Where the pages are, and how long this has been so."""
    yield f"`cogvx up` has run since {_since(state.since)} for {state.home}"
    yield f"Prefect   {state.prefect}"
    yield f"MLflow    {state.mlflow}"
    if state.s3:
        yield f"S3        {state.s3}"


def _keeper_line(state: UpState) -> str:
    if not state.is_kept:
        left = f", and {len(state.left)} processes of it still run" if state.left else ""
        again = Desk(state.home).command
        return f"was killed{left}; `cogvx down` clears up, `{again}` starts again"
    words = {"starting": "is starting", "up": "is up", "stopping": "is stopping"}[state.phase]
    return f"{words}, process {state.keeper.pid}, since {_since(state.since)}"


def _service_line(one: ServiceState, words: str) -> str:
    if one.status in {"given up", "waiting to start again"}:
        words = f"{words}, {one.status}"
    gpus = f" on GPU {one.gpus}" if one.gpus else ""
    again = f", started {one.starts} times" if one.starts > 1 else ""
    return f"{words}{gpus}, since {_since(one.since)}{again}, {one.log.name}"


def _lives(one: ServiceState) -> bool:
    return one.status in {"starting", "running"} and all(mark.lives for mark in one.processes)


def _since(moment: datetime) -> str:
    """A time of this day, or a day and its time."""
    here = moment.astimezone()
    return f"{here:%H:%M:%S}" if here.date() == now().astimezone().date() else f"{here:%d %b %H:%M}"
