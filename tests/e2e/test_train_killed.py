"""Training on a real worker, ended in every way: no process of it stays, and its work is kept.

One worker serves the tests in turn, and the last one kills it.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling
from prefect.workers.process import ProcessWorker

from cogvx.check import check_file
from cogvx.files import read_document
from cogvx.model.nano.world import render_world
from cogvx.runs.carry import latest_key
from cogvx.runs.events import EventTail
from cogvx.runs.folder import RunFolder, RunSpec, TrainOutcome
from cogvx.runs.saved import Pointer, folder_name
from cogvx.store import LocalStore
from flows.train import train
from tasks.clients.runs import Runs
from tasks.settings import EVERYWHERE
from tests.e2e.conftest import Place, make_place, write_recipe
from tests.fixtures.forks import Forks
from tests.fixtures.servers import running

POOL = "train-killed"
SECONDS = 90.0  # on a machine that does much else; alone it takes two or three
CLI = "tests.fixtures.forks:call_cli"


@pytest.fixture(scope="module")
def client(prefect_url: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: prefect_url}), get_client(sync_client=True) as found:
        yield found


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, nano_base: Path, prefect_url: str, forks: Forks
) -> Place:
    """Three small clips, cached; runs of them would take hours."""
    root = tmp_path_factory.mktemp("trained")
    render_world(root / "clips", clips=3, seed=5)
    recipe = write_recipe(
        root / "recipe.toml", clips=str(root / "clips"), base=nano_base, steps=1_000_000
    )
    text = recipe.read_text().replace("= 48", "= 16").replace("min_heldout = 3", "min_heldout = 1")
    recipe.write_text(text.replace("heldout_every = 8", "heldout_every = 1000000"))
    found = make_place(root, recipe, PREFECT_API_URL=prefect_url)
    forks.start(CLI, "cache", str(recipe), environment=found.environment, cwd=root).succeed()
    return found


@pytest.fixture(scope="module")
def deployment(client: SyncPrefectClient) -> UUID:
    template = ProcessWorker.get_default_base_job_template()
    client.create_work_pool(
        WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template)
    )
    return client.create_deployment(
        client.create_flow(train),
        name=POOL,
        work_pool_name=POOL,
        entrypoint=f"{train.fn.__module__}.{train.fn.__name__}",
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": "."}}],
        job_variables={"working_dir": ".", "env": EVERYWHERE},
    )


@pytest.fixture(scope="module")
def worker(
    place: Place, deployment: UUID, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    log = tmp_path_factory.mktemp("worker") / "log"
    command = [*place.command()[:1], "-m", "prefect", "worker", "start", "--pool", POOL]
    more = {"PREFECT_HOME": str(log.parent), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    with running(command, log, {**place.environment, **more}) as process:
        yield process.pid


class Training:
    """A flow run that trains, and has saved a checkpoint."""

    def __init__(
        self, client: SyncPrefectClient, deployment: UUID, place: Place, *, processes: int
    ) -> None:
        recipe = check_file(place.recipe).recipe.model_dump(mode="json")
        known = set(runs_in(place.home))
        recipe["train"] |= {"processes": processes, "micro_batch": 1, "seed": len(known)}
        self._client, self._place = client, place
        self.id = client.create_flow_run_from_deployment(
            deployment, parameters={"recipe": recipe}
        ).id
        self._wait(lambda: len(runs_in(place.home)) > len(known))
        (root,) = set(runs_in(place.home)) - known
        self.folder = RunFolder(root)
        tail = EventTail(self.folder.events)
        self._wait(lambda: any(event["kind"] == "checkpoint" for event in tail.read()))
        # supervisor, accelerate, trainers
        assert len(processes_of(root)) == 2 + processes

    def _wait(self, holds: Callable[[], bool]) -> None:
        """Wait for something that happens unless the flow run ends first."""

        def happened() -> bool:
            state = self.flow_run.state
            assert state is None or not state.is_final(), f"{state!r}"
            return holds()

        wait_until(happened, 120)

    @property
    def flow_run(self) -> FlowRun:
        return self._client.read_flow_run(self.id)

    @property
    def engine(self) -> int:
        """The process of the flow run."""
        pid = self.flow_run.infrastructure_pid
        assert pid is not None
        return int(pid.rpartition(":")[2])

    def require_gone(self, *pids: int) -> None:
        """Nothing of it lives half a minute later."""
        alive = lambda: processes_of(self.folder.root) + [pid for pid in pids if is_alive(pid)]  # noqa: E731
        wait_until(lambda: not alive(), SECONDS)

    def require_saved(self) -> int:
        """It stopped as it was asked to, with a checkpoint; returns the step."""
        outcome = read_document(self.folder.outcome, TrainOutcome)
        assert (outcome.status, outcome.stopped_for) == ("stopped", "signal")
        assert read_document(self.folder.latest, Pointer).step == outcome.step
        return outcome.step

    def stored(self) -> int:
        """The step of the newest checkpoint in the store; 0 while there is none."""
        key = latest_key(read_document(self.folder.spec, RunSpec).run)
        store = LocalStore(self._place.home / "store")
        if store.info(key) is None:
            return 0
        return Pointer.model_validate_json(store.read(key)).step

    def status_in_mlflow(self) -> str:
        address = f"sqlite:///{self._place.home / 'mlflow.db'}"
        run = read_document(self.folder.spec, RunSpec)
        run_id = Runs(address).find_run(run.recipe.name, run.run)
        assert run_id is not None
        return str(MlflowClient(address).get_run(run_id).info.status)


def runs_in(home: Path) -> list[Path]:
    return [path.parent for path in (home / "runs").glob("*/run.json")]


def processes_of(root: Path) -> list[int]:
    """Living processes that were started with the name of this run's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_alive(int(entry.name)):
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(root.resolve()) in words:
                found.append(int(entry.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cancelled(client: SyncPrefectClient, deployment: UUID, place: Place, worker: int) -> Training:
    training = Training(client, deployment, place, processes=2)
    client.set_flow_run_state(training.id, Cancelling())
    training.require_gone()
    return training


def test_cancelling_the_flow_run_ends_all_processes_and_keeps_their_work(
    cancelled: Training,
) -> None:
    step = cancelled.require_saved()
    wait_until(lambda: cancelled.flow_run.state_name == "Cancelled", SECONDS)
    assert cancelled.stored() == step
    wait_until(lambda: cancelled.status_in_mlflow() == "KILLED", SECONDS)


def test_a_run_that_was_cancelled_goes_on_on_another_machine(
    cancelled: Training, forks: Forks, place: Place, tmp_path: Path
) -> None:
    step = cancelled.stored()
    environment = {
        **place.environment,
        "COGVX_HOME": str(tmp_path),
        "COGVX_STORE_URL": str(place.home / "store"),
    }
    spec = read_document(cancelled.folder.spec, RunSpec)
    text = place.recipe.read_text().replace("micro_batch = 2", "micro_batch = 1")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        text.replace("[train]\n", f"[train]\nseed = {spec.recipe.train.seed}\nprocesses = 2\n")
    )
    job = forks.start(CLI, "train", str(recipe), environment=environment, cwd=tmp_path)
    folder = RunFolder(tmp_path / "runs" / cancelled.folder.root.name)
    tail = EventTail(folder.events)
    seen: list[int] = []

    def has_resumed() -> bool:
        seen.extend(event["step"] for event in tail.read() if event["kind"] == "resumed")
        return bool(seen)

    wait_until(has_resumed, 120)
    assert seen == [step]
    os.kill(job.pid, signal.SIGINT)
    job.wait()
    assert processes_of(folder.root) == []


def test_killing_the_flow_process_ends_all_processes_and_keeps_their_work_here(
    client: SyncPrefectClient, deployment: UUID, place: Place, worker: int
) -> None:
    training = Training(client, deployment, place, processes=1)
    os.kill(training.engine, signal.SIGKILL)
    training.require_gone(training.engine)
    assert training.require_saved() >= training.stored()
    assert (training.folder.checkpoints / folder_name(training.require_saved())).is_dir()
    wait_until(lambda: training.flow_run.state_name == "Crashed", SECONDS)


def test_killing_the_worker_ends_the_flow_run_too_which_says_why(
    client: SyncPrefectClient, deployment: UUID, place: Place, worker: int
) -> None:
    training = Training(client, deployment, place, processes=1)
    engine = training.engine
    os.kill(worker, signal.SIGKILL)
    training.require_gone(engine)
    assert training.stored() == training.require_saved()
    state = training.flow_run.state
    assert state is not None
    assert state.name == "Failed", state.message
    assert f"the Prefect worker that started this flow run (process {worker}) is gone" in str(
        state.message
    )
