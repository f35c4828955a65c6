"""`cogvx up` in the background, and what is left of one that was killed."""

import logging
import subprocess
import sys
import time
from pathlib import Path

import typer

from deployments.up.services import Options
from deployments.up.state import EXTRA_SECONDS, Desk, UpState
from tasks.clients.processes import Mark, end

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.3
_LEFT_SECONDS = 15.0  # for what has lost those that looked after it


def leave_running(desk: Desk, options: Options) -> None:
    """Start `cogvx up` apart from this terminal, and come back when all is well.

    Raises:
        Exit: It ended before that, with its own exit code; what it said was shown.
    """
    command = [sys.executable, "-m", "deployments.cli", "up", "--background"]
    command += ["--catalog", str(options.catalog)] if options.is_chosen else []
    command += ["--prefect-port", str(options.prefect_port)]
    command += ["--mlflow-port", str(options.mlflow_port), "--s3-port", str(options.s3_port)]
    command += ["--s3"] if options.with_s3 else []
    shown = desk.output.stat().st_size if desk.output.is_file() else 0
    with desk.output.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # closing this terminal is no reason to stop
        )
    mark = Mark.of(process.pid)
    try:
        while not _is_up(desk, mark) and process.poll() is None:
            time.sleep(_POLL_SECONDS)
            shown = _show(desk.output, shown)
    except BaseException:
        state = desk.read()
        process.terminate()
        process.wait(None if state is None else state.stop_seconds)
        _show(desk.output, shown)
        raise
    _show(desk.output, shown)
    if process.poll() is not None:
        raise typer.Exit(process.returncode)
    typer.echo(
        "it runs in the background; `cogvx status` shows what it does, `cogvx down` stops it"
    )


def clear_up(desk: Desk) -> None:
    """End what is left of an `up` that was killed, and forget it.

    Those that look after services hear of its death from the kernel, so most often this waits for
    runs that save what they have.
    """
    state = desk.read()
    if state is None:
        return
    if state.left:
        logger.info("waiting for %d processes of an earlier `up` to end", len(state.left))
        _end_left(state)
    desk.clear()


def _end_left(state: UpState) -> None:
    # Not the workers themselves: whoever looks after one lets its runs end first.
    guards = [one.processes[0] for one in state.services if one.processes]
    longest = max((one.grace for one in state.services), default=0.0)
    for mark in [
        *end(guards, grace=longest + EXTRA_SECONDS),
        *end(state.left, grace=_LEFT_SECONDS),
    ]:
        logger.warning("process %d did not stop and was killed", mark.pid)


def _is_up(desk: Desk, keeper: Mark | None) -> bool:
    state = desk.read()
    return state is not None and state.keeper == keeper and state.phase == "up"


def _show(log: Path, start: int) -> int:
    """Show what a log has had since then; returns how far that is."""
    with log.open("rb") as file:
        file.seek(start)
        said = file.read()
    typer.echo(said.decode(errors="replace"), err=True, nl=False)
    return start + len(said)
