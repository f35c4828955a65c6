"""An operation on one machine: Prefect's server with its services, and a worker for each pool.

Each is a process of its own, to be stopped, killed and started again alone. Whatever a flow run
starts inherits the place's home in its environment, by which the living are counted.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.apply import apply_catalog
from deployments.catalog import load_catalog
from deployments.rows import desired
from tasks.clients.supervise import descendants, send
from tests.e2e.conftest import Place
from tests.fixtures.recipes import POOLS
from tests.fixtures.servers import free_port, listens
from tests.fixtures.tables import prepare_prefect

CPU, TRAIN = "cpu", "gpu-train"
RETRAIN = "retrain/tiny"
CATALOG = f"""{POOLS}
[[recipes]]
file = "recipe.toml"
[zombies]
within_seconds = 90
"""
# These stages happen in the retrain run itself: with a worker for each, nights would be longer.
_HERE = ("COGVX_ENCODE_DEPLOYMENT", "COGVX_GENERATE_DEPLOYMENT", "COGVX_MEASURE_DEPLOYMENT")


class Kept:
    """A process that may end and be started again; its log goes on."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.command, self._environment = command, environment
        self.log = log
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        return self.process

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60) -> None:
        """Send a signal to it alone, and wait for its end."""
        if self.is_alive:
            self.process.send_signal(number)
            self.process.wait(seconds)

    def destroy(self) -> None:
        """Kill it and all that it has started."""
        if self.is_alive:
            send(signal.SIGKILL, [self.process.pid, *descendants(self.process.pid)])
            self.process.wait(30)


class Operation:
    """What a test does to the operation, and sees of it."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self.folder = place, folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        place.environment["PREFECT_API_URL"] = self.url
        command = [sys.executable, "-m", "prefect", "server", "start"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        environment = {
            **os.environ,
            "PREFECT_HOME": str(folder / "server"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS": "100",
            # on a machine that does much else SQLite's locks are held for long
            "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
            # in memory, what a restart forgets would stay taken for ever
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
                "prefect.server.concurrency.lease_storage.filesystem"
            ),
            "DO_NOT_TRACK": "1",
        }
        prepare_prefect(folder / "server")
        self.server = Kept(command, folder / "server.log", environment)
        self.workers: dict[str, Kept] = {}

    def open(self, client: SyncPrefectClient) -> None:
        """Deploy, once the server answers."""
        self.client = client
        catalog = self.place.root / "catalog.toml"
        catalog.write_text(CATALOG)
        apply_catalog(client, desired(load_catalog(catalog)))

    def hire(self, pool: str, *, tended: bool = True) -> Kept:
        """Start the worker of a pool, unless it is at work just so."""
        command = [sys.executable, "-m"]
        command += ["tasks.clients.tend", "--", sys.executable, "-m"] if tended else []
        command += ["prefect", "worker", "start", "--pool", pool]
        old = self.workers.get(pool)
        if old is not None and old.is_alive and old.command == command:
            return old
        if old is not None:
            old.end()
        environment = {
            **self.place.environment,
            "PREFECT_HOME": str(self.folder / pool),
            "PREFECT_WORKER_QUERY_SECONDS": "3",
        }
        self.workers[pool] = Kept(command, self.folder / f"{pool}.log", environment)
        return self.workers[pool]

    def retrain(self) -> UUID:
        """Start a run as a schedule or a person does."""
        deployment = self.client.read_deployment_by_name(RETRAIN)
        job = deployment.job_variables
        job = {**job, "env": {**job["env"], **dict.fromkeys(_HERE, "")}}
        return self.client.create_flow_run_from_deployment(deployment.id, job_variables=job).id

    def trains(self) -> list[UUID]:
        """Train runs that have not ended."""
        deployment = self.client.read_deployment_by_name(f"train/{TRAIN}")
        which = FlowRunFilterDeploymentId(any_=[deployment.id])
        found = self.client.read_flow_runs(flow_run_filter=FlowRunFilter(deployment_id=which))
        return [run.id for run in found if run.state is None or not run.state.is_final()]

    def look(self, run: UUID) -> FlowRun:
        return self.client.read_flow_run(run)

    def summary(self, run: UUID) -> str:
        """The newest summary on a run's page; empty where there is none."""
        mine = ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[run]),
            key=ArtifactFilterKey(any_=["summary-tiny"]),
        )
        found = self.client.read_artifacts(
            artifact_filter=mine, sort=ArtifactSort.CREATED_DESC, limit=1
        )
        return str(found[0].data) if found else ""

    def wait(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for something; a server that is away for a moment does not end the wait."""
        end = time.monotonic() + seconds
        while True:
            assert self.server.is_alive, self.logs()
            with contextlib.suppress(httpx.TransportError):
                if holds():
                    return
            assert time.monotonic() < end, f"{what}: not in {seconds:.0f} s\n{self.logs()}"
            time.sleep(1)

    def wait_for_server(self) -> None:
        self.wait(lambda: listens(self.port), 120, "the server answers")

    def living(self) -> list[int]:
        """Living processes that carry the home, but for workers and who tends them."""
        kept = {pid for each in self.workers.values() if each.is_alive for pid in _staff(each)}
        return [pid for pid in processes_with(f"COGVX_HOME={self.place.home}") if pid not in kept]

    def logs(self) -> str:
        parts = [self.server, *self.workers.values()]
        return "\n".join(f"== {one.log.name}\n{one.log.read_text()[-4000:]}" for one in parts)

    def close(self) -> None:
        for one in (*self.workers.values(), self.server):
            one.destroy()
        send(signal.SIGKILL, self.living())


@contextmanager
def operating(place: Place, folder: Path) -> Iterator[Operation]:
    """The operation with its server, deployments and workers, while the block lasts."""
    operation = Operation(place, folder)
    try:
        operation.wait_for_server()
        with (
            temporary_settings({PREFECT_API_URL: operation.url}),
            get_client(sync_client=True) as client,
        ):
            operation.open(client)
            for pool in (CPU, TRAIN):
                operation.hire(pool)
            yield operation
    finally:
        operation.close()


def processes_with(setting: str) -> list[int]:
    """Living processes that were started with `NAME=VALUE` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "environ").read_bytes().split(b"\0")
            except OSError:  # it ended, or is another user's; a dead one has no environment
                continue
            if setting.encode() in words:
                found.append(int(entry.name))
    return found


def _staff(kept: Kept) -> set[int]:
    """A worker, and who tends it."""
    pids = [kept.process.pid, *descendants(kept.process.pid)]
    return {pid for pid in pids if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes()}
