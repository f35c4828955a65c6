"""One night of an operation: a retraining under way, what is done to it, and what becomes of it."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from cogvx.files import read_document
from cogvx.runs.carry import latest_key
from cogvx.runs.events import EventTail
from cogvx.runs.folder import RunFolder, RunSpec
from cogvx.runs.saved import Pointer
from cogvx.store import LocalStore
from tasks.clients.supervise import children, descendants, send
from tests.e2e.operation import CPU, TRAIN, Operation, processes_with

PROMISED_SECONDS = 120.0
_PATIENCE_SECONDS = 300.0  # beyond the promise, so that a broken one is told with its number


@dataclass(frozen=True)
class Row:
    """What a night came to, as the table in the docs tells it; the next night adds where it began.

    `checkpoint` is the newest step that is kept, and `stored` the newest one in the store.
    """

    case: str
    child: str
    child_seconds: float
    parent: str
    parent_seconds: float
    gone_seconds: float
    checkpoint: int
    stored: int
    says: str
    resumed: int | None = None

    HEAD = (
        "| what is done | train run | after | retrain run | after | no process after "
        "| kept | the next run goes on from | what its page says |\n" + "|---" * 9 + "|"
    )

    def __str__(self) -> str:
        kept = f"{self.checkpoint}"
        kept += "" if self.stored == self.checkpoint else f", in the store {self.stored}"
        cells = (
            self.case,
            self.child,
            f"{self.child_seconds:.0f} s",
            self.parent,
            f"{self.parent_seconds:.0f} s",
            f"{self.gone_seconds:.0f} s",
            kept,
            "-" if self.resumed is None else str(self.resumed),
            self.says,
        )
        return f"| {' | '.join(cells)} |"


class Night:
    """A retrain run whose train run has stored a checkpoint, later than any before."""

    def __init__(self, operation: Operation, *, beyond: int) -> None:
        self.operation = operation
        self.parent = operation.retrain()
        found: list[UUID] = []

        def has_child() -> bool:
            require_under_way(operation.look(self.parent))
            found.extend(operation.trains())
            return bool(found)

        operation.wait(has_child, _PATIENCE_SECONDS, "the retrain run has a train run")
        self.child = found[0]
        self.folder = RunFolder(wait_for_checkpoint(operation, self.child, beyond=beyond))

    @property
    def began_at(self) -> int | None:
        """The step that the trainer of this night went on from."""
        steps = [e["step"] for e in EventTail(self.folder.events).read() if e["kind"] == "resumed"]
        return steps[-1] if steps else None

    def engine(self, run: UUID) -> int:
        """The process of a flow run."""
        pid = self.operation.look(run).infrastructure_pid
        assert pid is not None
        return int(pid.rpartition(":")[2])

    def ranks(self) -> list[int]:
        """The trainer's processes, in order."""
        mine = set(descendants(self.engine(self.child)))
        ranks = {n: set(processes_with(f"LOCAL_RANK={n}")) & mine for n in range(2)}
        assert [len(ranks[n]) for n in range(2)] == [1, 1], ranks
        return [ranks[n].pop() for n in range(2)]

    def crash_parent(self) -> float:
        """Kill the retrain run's process; after how many seconds that run is Crashed."""
        began = time.monotonic()
        os.kill(self.engine(self.parent), signal.SIGKILL)
        over = lambda: self.operation.look(self.parent).state_name == "Crashed"  # noqa: E731
        self.operation.wait(over, _PATIENCE_SECONDS, "the retrain run crashes")
        require_under_way(self.operation.look(self.child))
        return time.monotonic() - began

    def complete(self, case: str) -> Row:
        """Wait until it has come to a good end, which takes what it takes."""
        row = self.follow(case, lambda _: None, patience=1500)
        assert (row.child, row.parent) == ("Completed", "Completed"), row
        return row

    def follow(
        self, case: str, deed: "Callable[[Night], None]", *, patience: float = _PATIENCE_SECONDS
    ) -> Row:
        """Do something to it, and wait until everything has ended."""
        operation = self.operation
        began = time.monotonic()
        deed(self)
        ends: dict[UUID, tuple[float, FlowRun]] = {}
        gone: list[float] = []

        def over() -> bool:
            for run in {self.parent, self.child} - ends.keys():
                now = operation.look(run)
                if now.state is not None and now.state.is_final():
                    ends[run] = (time.monotonic() - began, now)
            if len(ends) == 2 and not operation.living():
                gone.append(time.monotonic() - began)
            return bool(gone)

        operation.wait(over, patience, f"{case}: everything has ended")
        (child_seconds, child), (parent_seconds, parent) = ends[self.child], ends[self.parent]
        return Row(
            case=case,
            child=child.state_name or "",
            child_seconds=child_seconds,
            parent=parent.state_name or "",
            parent_seconds=parent_seconds,
            gone_seconds=gone[0],
            checkpoint=read_document(self.folder.latest, Pointer).step,
            stored=stored_step(LocalStore(operation.place.home / "store"), self.folder),
            says=_says(parent),
        )


def require_under_way(run: FlowRun) -> None:
    assert run.state is None or not run.state.is_final(), f"{run.name}: {run.state!r}"


def wait_for_checkpoint(operation: Operation, run: UUID, *, beyond: int) -> Path:
    """The run folder of a training run, once the store has a checkpoint after this step."""
    found: list[Path] = []

    def has_one() -> bool:
        require_under_way(operation.look(run))
        store = LocalStore(operation.place.home / "store")
        roots = [spec.parent for spec in operation.place.home.glob("runs/*/run.json")]
        found.extend(root for root in roots if stored_step(store, RunFolder(root)) > beyond)
        return bool(found)

    operation.wait(has_one, _PATIENCE_SECONDS, "a checkpoint is stored")
    return found[0]


def stored_step(store: LocalStore, folder: RunFolder) -> int:
    key = latest_key(read_document(folder.spec, RunSpec).run)
    return 0 if store.info(key) is None else Pointer.model_validate_json(store.read(key)).step


def outcome(home: Path) -> tuple[int | None, str]:
    """Where the finished run of this home went on from, and the digest of its adapter."""
    (path,) = home.glob("store/runs/*/outcome.json")
    document = json.loads(path.read_text())
    return document["resumed_from"], document["adapter_sha256"]


def _says(run: FlowRun) -> str:
    message = (run.state.message if run.state else None) or ""
    return re.sub(r"\s+", " ", message).replace("|", "/")[:240]


# What may happen in a night


def cancel_parent(night: Night) -> None:
    night.operation.client.set_flow_run_state(night.parent, Cancelling())


def cancel_child(night: Night) -> None:
    night.operation.client.set_flow_run_state(night.child, Cancelling())


def kill_engine(night: Night) -> None:
    os.kill(night.engine(night.child), signal.SIGKILL)


def kill_rank(night: Night) -> None:
    os.kill(night.ranks()[1], signal.SIGKILL)


def stop_worker(night: Night) -> None:
    night.operation.workers[TRAIN].process.terminate()


def stop_parents_worker(night: Night) -> None:
    night.operation.workers[CPU].process.terminate()


def kill_worker(night: Night) -> None:
    os.kill(worker_of(night.operation, TRAIN), signal.SIGKILL)


def kill_parents_worker(night: Night) -> None:
    os.kill(worker_of(night.operation, CPU), signal.SIGKILL)


def lose_machine(night: Night) -> None:
    """All at once, as when its power fails; nobody is left to tell."""
    kept = night.operation.workers[TRAIN].process.pid
    send(signal.SIGKILL, [kept, *descendants(kept)])


def restart_server(night: Night, seconds: float = 20) -> None:
    """As for an update that takes so long, beside the server's own start."""
    night.operation.server.end()
    time.sleep(seconds)
    night.operation.server.start()
    night.operation.wait_for_server()


def worker_of(operation: Operation, pool: str) -> int:
    """The worker's own process, tended or not."""
    kept = operation.workers[pool].process.pid
    tends = b"tasks.clients.tend" in Path(f"/proc/{kept}/cmdline").read_bytes().split(b"\0")
    return children(kept)[0] if tends else kept
