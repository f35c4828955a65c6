"""Start the trainer under accelerate, follow it, and leave none of it behind.

The trainer is another process because it may be several, because it may take the GPU down with it,
and because a flow must stay able to react. Call this from a flow's body or a direct task call: a
submitted task runs in a thread that no cancellation reaches.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cogvx.files import write_document
from cogvx.runs.events import EventTail
from cogvx.runs.folder import RunFolder, TrainOutcome
from cogvx.runs.lock import hold
from tasks.clients.ending import Ended, Stopped, outcome_of, require_well
from tasks.clients.machines import Machines
from tasks.clients.supervise import GRACE_SECONDS, descendants, send
from tasks.clients.unheard import print_into_nothing

__all__ = ["Stopped", "join_training", "launch_training"]

_MODULE = "cogvx.training"
_POLL_SECONDS = 0.2
_EXTRA_SECONDS = 5.0  # for the supervisor itself, after its tree is gone
_ALONE = Machines()


def launch_training(
    run: Path,
    *,
    processes: int,
    on_event: Callable[[Mapping[str, Any]], None],
    log: Path,
    machines: Machines = _ALONE,
    worker: int | None = None,
    grace: float = GRACE_SECONDS,
) -> TrainOutcome:
    """Train the run in a folder, or finish it, and return how it ended.

    A run that has completed is not started again.

    Args:
        run: The run folder, with run.json and records.
        processes: As many as the recipe's `train.processes`, those of all machines.
        on_event: Called in this thread with every event of this start, in order. What it raises
            ends training.
        log: What the trainer prints is appended here.
        machines: This one leads; the others call `join_training`.
        worker: The process that started this one and whose end ends training, if there is one.
        grace: Seconds in which a trainer that is stopped has to save; then it is killed.

    Raises:
        ConfigError: The folder is no run folder.
        CogvxError: The trainer's own error, of its own kind; or the root kind when it crashed.
        Stopped: It was asked to stop, by a signal or by `train.max_hours`, and has saved a
            checkpoint; the same call goes on from there.
        TransientError: It was killed from outside; the same call goes on from its last checkpoint.
            Or another process is training this run, which is left in peace.
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
        _require_kept(worker)
        command = _command(folder, processes, machines, worker, grace)
        tail = EventTail(folder.events)
        for _ in tail.read():
            pass  # of earlier starts

        def hand_on() -> None:
            _require_kept(worker)
            for event in tail.read():
                on_event(event)

        try:
            ended = _run(folder, command, log, hand_on, grace)
        except SystemExit:
            _require_kept(worker)  # logging ends a process whose output nobody reads any more
            raise
        return outcome_of(folder, ended)


def join_training(
    run: Path,
    *,
    processes: int,
    machines: Machines,
    log: Path,
    grace: float = GRACE_SECONDS,
) -> None:
    """Take part in a run that another machine leads, until it ends there.

    Args:
        run: This machine's own folder of the run, with its own run.json and records.
        processes: As for `launch_training`.
        machines: Which one this is.
        log: What the trainer prints is appended here.
        grace: As for `launch_training`.

    Raises:
        CogvxError: As for `launch_training`. Why training failed elsewhere is told there.
    """
    folder = RunFolder(run)
    folder.read_spec()
    with hold(folder.lock):
        command = _command(folder, processes, machines, None, grace)
        require_well(folder, _run(folder, command, log, lambda: None, grace))


def _run(
    folder: RunFolder,
    command: Sequence[str],
    log: Path,
    each_moment: Callable[[], None],
    grace: float,
) -> Ended:
    """Run the supervised trainer to its end; whatever is raised meanwhile ends it first."""
    folder.outcome.unlink(missing_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    printed_before = log.stat().st_size if log.is_file() else 0
    with log.open("ab") as output:
        supervisor = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = _follow(supervisor, each_moment)
    except BaseException:
        _stop(supervisor, grace)
        raise
    with log.open("rb") as file:
        file.seek(printed_before)
        return Ended(code, file.read().decode(errors="replace"))


def _command(
    folder: RunFolder, processes: int, machines: Machines, worker: int | None, grace: float
) -> list[str]:
    """The trainer under accelerate under the supervisor.

    accelerate gets a configuration of ours, or it would read the one in the user's home. Several
    processes are started the same way on GPUs and on CPUs; the trainer itself sees which it has.
    Threads sleep while they wait for each other: spinning, two of them trained 12 times slower on
    two busy cores. A process that crashes says where.
    """
    machines.check(processes)
    config = folder.root / "accelerate.json"
    write_document(
        config,
        {
            "compute_environment": "LOCAL_MACHINE",
            "distributed_type": "MULTI_GPU" if processes > 1 else "NO",
            "num_processes": processes,
            "num_machines": machines.count,
            "machine_rank": machines.rank,
            "main_process_ip": machines.address or None,
            "main_process_port": machines.port,
            "mixed_precision": "no",
            "use_cpu": False,
            "debug": False,
        },
    )
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    threads = max(1, cores * machines.count // processes)
    supervise = [sys.executable, "-m", "tasks.clients.supervise", "--parent", str(os.getpid())]
    supervise += ["--grace", str(grace)]
    supervise += [] if worker is None else ["--keeper", str(worker)]
    supervise += ["--env", "OMP_WAIT_POLICY=PASSIVE", "--env", "PYTHONFAULTHANDLER=1"]
    accelerate = [sys.executable, "-m", "accelerate.commands.launch"]
    settings = ["--config_file", str(config), "--num_cpu_threads_per_process", str(threads)]
    trainer = ["--module", _MODULE, str(folder.root.resolve())]
    return [*supervise, "--", *accelerate, *settings, *trainer]


def _follow(supervisor: "subprocess.Popen[bytes]", each_moment: Callable[[], None]) -> int:
    """Hand events on until the supervisor ends; returns its exit code."""
    code: int | None = None
    while code is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = supervisor.wait(timeout=_POLL_SECONDS)
        each_moment()
    return code


def _stop(supervisor: "subprocess.Popen[bytes]", grace: float) -> None:
    """End the whole tree: politely through the supervisor, by force if that does not answer.

    To be told again changes nothing: whoever tends a worker that was killed tells a flow run that
    has seen it by itself, and the checkpoint that is being saved must still reach the store.
    """
    with _deaf():
        supervisor.terminate()
        try:
            supervisor.wait(timeout=grace + _EXTRA_SECONDS)
        except subprocess.TimeoutExpired:
            send(signal.SIGKILL, [*descendants(supervisor.pid), supervisor.pid])
            supervisor.wait()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Do not hear SIGTERM for a while; only the main thread does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _require_kept(worker: int | None) -> None:
    """Refuse to work for a worker that has ended: nobody could cancel what works on.

    The worker also read what this process prints, which would now be an error with each line.
    """
    if worker is not None and os.getppid() != worker:
        print_into_nothing()
        raise Stopped(
            f"the Prefect worker that started this flow run (process {worker}) is gone, so "
            "training was stopped; start a worker and run it again to go on"
        )
