"""Start the trainer under accelerate, follow it, and leave none of it behind.

The trainer is another process because it may be several, because it may take the GPU down with it,
and because a flow must stay able to react. Call this from a flow's body or a direct task call: a
submitted task runs in a thread that no cancellation reaches.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cogvx.errors import CogvxError, TransientError, error_from_name
from cogvx.files import read_document, write_document
from cogvx.training.events import EventTail
from cogvx.training.lock import hold
from cogvx.training.run import RunFolder, TrainOutcome
from tasks.clients.supervise import GRACE_SECONDS, descendants, send

_MODULE = "cogvx.training"
_POLL_SECONDS = 0.2
_EXTRA_SECONDS = 5.0  # for the supervisor itself, after its tree is gone
_LINES_SHOWN = 15
_NUMBERS = ("metrics", "heldout")
_SIGNAL = re.compile(r"\bSIG(?:KILL|TERM|SEGV|ABRT|BUS|FPE|ILL|INT|HUP)\b")


def launch_training(
    run: Path, *, processes: int, on_event: Callable[[Mapping[str, Any]], None], log: Path
) -> TrainOutcome:
    """Train the run in a folder, or finish it, and return how it ended.

    A run that has completed is not started again. The numbers of earlier tries are handed to
    `on_event` once more before anything starts, since whoever listened then may have been killed
    before keeping them; they carry the time, step and value that they had.

    Args:
        run: The run folder, with run.json and records.
        processes: As many as the recipe's `train.processes`.
        on_event: Called in this thread with every event, in order. What it raises ends training.
        log: What the trainer prints is appended here.

    Raises:
        ConfigError: The folder is no run folder.
        CogvxError: The trainer's own error, of its own kind; or the root kind when it crashed.
        TransientError: It was stopped or killed from outside; the same call goes on from there. Or
            another process is training this run, which is left in peace.
        BaseException: Whatever interrupts this call. The trainer is stopped first: it gets SIGTERM
            and time to save a checkpoint.
    """
    folder = RunFolder(run)
    folder.read_spec()
    with hold(folder.lock):
        completed = folder.completed()
        if completed is not None:
            return completed
        with hold(folder.trainer_lock):
            pass  # nobody's trainer works here: started by hand, or still saving after a kill
        return _launch(folder, processes, on_event, log)


def _launch(
    folder: RunFolder, processes: int, on_event: Callable[[Mapping[str, Any]], None], log: Path
) -> TrainOutcome:
    """Hand on the numbers of earlier tries, then start a trainer and follow it."""
    folder.outcome.unlink(missing_ok=True)
    tail = EventTail(folder.events)
    for event in tail.read():
        if event["kind"] in _NUMBERS:
            on_event(event)
    log.parent.mkdir(parents=True, exist_ok=True)
    printed_before = log.stat().st_size if log.is_file() else 0
    command = _command(folder, processes)
    with log.open("ab") as output:
        supervisor = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = _follow(supervisor, tail, on_event)
    except BaseException:
        _stop(supervisor)
        raise
    return _outcome(folder, code, _last_lines(log, printed_before))


def _command(folder: RunFolder, processes: int) -> list[str]:
    """The trainer under accelerate under the supervisor.

    accelerate gets a configuration of ours, or it would read the one in the user's home. Several
    processes are started the same way on GPUs and on CPUs; the trainer itself sees which it has.
    Threads sleep while they wait for each other: spinning, two of them trained 12 times slower on
    two busy cores.
    """
    config = folder.root / "accelerate.json"
    write_document(
        config,
        {
            "compute_environment": "LOCAL_MACHINE",
            "distributed_type": "MULTI_GPU" if processes > 1 else "NO",
            "num_processes": processes,
            "num_machines": 1,
            "machine_rank": 0,
            "main_process_port": 0,
            "mixed_precision": "no",
            "use_cpu": False,
            "debug": False,
        },
    )
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    threads = max(1, cores // processes)
    supervise = [sys.executable, "-m", "tasks.clients.supervise", "--parent", str(os.getpid())]
    supervise += ["--env", "OMP_WAIT_POLICY=PASSIVE"]
    accelerate = [sys.executable, "-m", "accelerate.commands.launch"]
    settings = ["--config_file", str(config), "--num_cpu_threads_per_process", str(threads)]
    trainer = ["--module", _MODULE, str(folder.root.resolve())]
    return [*supervise, "--", *accelerate, *settings, *trainer]


def _follow(
    supervisor: "subprocess.Popen[bytes]",
    tail: EventTail,
    on_event: Callable[[Mapping[str, Any]], None],
) -> int:
    """Hand events on until the supervisor ends; returns its exit code."""
    code: int | None = None
    while code is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = supervisor.wait(timeout=_POLL_SECONDS)
        for event in tail.read():
            on_event(event)
    return code


def _stop(supervisor: "subprocess.Popen[bytes]") -> None:
    """End the whole tree: politely through the supervisor, by force if that does not answer."""
    supervisor.terminate()
    try:
        supervisor.wait(timeout=GRACE_SECONDS + _EXTRA_SECONDS)
    except subprocess.TimeoutExpired:
        send(signal.SIGKILL, [*descendants(supervisor.pid), supervisor.pid])
        supervisor.wait()


def _outcome(folder: RunFolder, code: int, last_lines: str) -> TrainOutcome:
    """Turn an ended trainer into its result or its error."""
    if not folder.outcome.is_file():
        raise _unexplained(code, last_lines)
    outcome = read_document(folder.outcome, TrainOutcome)
    if outcome.status == "failed":
        raise error_from_name(outcome.error_kind or "", outcome.error or last_lines)
    if outcome.status == "stopped":
        raise TransientError(outcome.error or "training was stopped")
    return outcome


def _unexplained(code: int, last_lines: str) -> CogvxError:
    """The error of a trainer that left no outcome: killed, or broken before it could begin."""
    names = _SIGNAL.findall(last_lines)
    if code > 128:
        names = [signal.Signals(code - 128).name]
    if names:
        return TransientError(
            f"the trainer was ended by {names[-1]}; started again, it goes on from its newest "
            f"checkpoint. It last printed:\n{last_lines}"
        )
    return CogvxError(f"the trainer ended with code {code} and no word. It printed:\n{last_lines}")


def _last_lines(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-_LINES_SHOWN:])
