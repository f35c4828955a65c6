"""Shards on a work pool: processes of their own, the same records, and failures that stay alone.

The first tests tell one story on a real worker: a run with a shard that fails, a run in this
process that mends it, a run that starts nothing. The others stand in for the worker over the API.
"""

import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Running

from cogvx.cache.plan import CachePlan
from cogvx.errors import CogvxError, ConfigError, DataError, TransientError
from cogvx.recipe import Recipe
from cogvx.store import LocalStore
from flows.encode import encode_shard
from tasks.clients.pool import open_pool
from tasks.pools.children import Child, Ended
from tasks.pools.dispatch import require_all, run_child, run_children
from tasks.pools.fan_out import Elsewhere, run_on_pool
from tasks.pools.lookout import Bounds
from tasks.pools.stages import Stages
from tests.cache.toys import recipe as toy_recipe
from tests.e2e.conftest import Place, empty_caption_blocked, make_place, write_recipe
from tests.fixtures.deployed import CACHE_POOL, deploy_beside
from tests.fixtures.forks import Forks, Job
from tests.fixtures.servers import running
from tests.fixtures.start import ROOT

SECONDS = 120.0  # on a machine that does much else; alone it takes one or two
PATIENT = Bounds(patience=SECONDS)


@pytest.fixture(scope="module")
def client(prefect_url: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: prefect_url}), get_client(sync_client=True) as found:
        yield found


@pytest.fixture(scope="module")
def deployment(client: SyncPrefectClient) -> str:
    deploy_beside(client, encode_shard, pool=CACHE_POOL)
    return deploy_beside(client, encode_shard, pool=CACHE_POOL)  # again, as whoever updates does


def runs_of(client: SyncPrefectClient, deployment: str) -> dict[UUID, FlowRun]:
    found = client.read_deployment_by_name(deployment)
    which = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[found.id]))
    return {run.id: run for run in client.read_flow_runs(flow_run_filter=which)}


# On a real worker


@pytest.fixture(scope="module")
def pooled(
    tmp_path_factory: pytest.TempPathFactory,
    nano_base: Path,
    world_clips: Path,
    prefect_url: str,
    deployment: str,
) -> Place:
    root = tmp_path_factory.mktemp("pooled")
    recipe = write_recipe(root / "recipe.toml", clips=str(world_clips), base=nano_base)
    return make_place(
        root,
        recipe,
        PREFECT_API_URL=prefect_url,
        COGVX_ENCODE_DEPLOYMENT=deployment,
        COGVX_SHARD_SECONDS="0.27",
    )


def cache(forks: Forks, place: Place, **settings: str) -> Job:
    environment = {**place.environment, **settings}
    call = "tests.fixtures.forks:call_cli"
    return forks.start(call, "cache", str(place.recipe), environment=environment, cwd=place.root)


@pytest.fixture(scope="module")
def worker(pooled: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    log = tmp_path_factory.mktemp("worker") / "log"
    command = ["env", "-C", str(pooled.root), sys.executable, "-m", "prefect", "worker", "start"]
    command += ["--pool", CACHE_POOL, "--limit", "2"]
    # Its settings are its own: no shard size, no deployment; the folder it runs in finds the home.
    environment = {
        name: value
        for name, value in pooled.environment.items()
        if name not in {"COGVX_ENCODE_DEPLOYMENT", "COGVX_SHARD_SECONDS", "COGVX_HOME"}
    }
    environment |= {
        "COGVX_HOME": "home",
        "PREFECT_HOME": str(log.parent),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    with running(command, log, environment) as process:
        yield process.pid


def records_in(store: LocalStore) -> dict[str, bytes]:
    return {entry.key: store.read(entry.key) for entry in store.entries("records/")}


@pytest.fixture(scope="module")
def store(pooled: Place) -> LocalStore:
    return LocalStore(pooled.home / "store")


@pytest.fixture(scope="module")
def broken(forks: Forks, pooled: Place, store: LocalStore, nano_base: Path, worker: int) -> str:
    """What a run says where one record cannot be written, because a file stands in its way."""
    with empty_caption_blocked(store, pooled, nano_base):
        job = cache(forks, pooled)
        status = job.wait()
    printed = job.output.read_text()
    assert status == 2, printed
    assert "Traceback" not in printed
    return printed


def test_a_shard_that_fails_elsewhere_is_named_with_its_reason(broken: str) -> None:
    error = " ".join(broken[broken.index("error:") :].split())
    assert re.search(r"1 of \d failed", error)
    assert re.search(r"- shard \d of \d: .*cannot be written", error)


def test_shards_ran_in_the_pool_under_their_parent(
    broken: str, client: SyncPrefectClient, deployment: str, store: LocalStore
) -> None:
    runs = runs_of(client, deployment).values()
    shards = [CachePlan.model_validate_json(store.read(e.key)) for e in store.entries("plans/")]
    assert len(runs) == len(shards) >= 2
    assert sorted(run.state_name or "" for run in runs) == [
        *["Completed"] * (len(shards) - 1),
        "Failed",
    ]
    assert len({run.infrastructure_pid for run in runs}) == len(shards)
    parents = {
        client.read_task_run(run.parent_task_run_id).flow_run_id
        for run in runs
        if run.parent_task_run_id
    }
    assert len(parents) == 1


def test_records_are_those_that_one_process_makes(
    broken: str,
    forks: Forks,
    pooled: Place,
    store: LocalStore,
    tmp_path: Path,
    client: SyncPrefectClient,
    deployment: str,
) -> None:
    here = records_in(store)
    assert here
    started = runs_of(client, deployment).keys()
    mended = cache(forks, pooled, COGVX_ENCODE_DEPLOYMENT="").succeed()
    assert f"{25 - len(here)} encoded, {len(here)} reused" in mended
    alone = make_place(
        tmp_path, pooled.recipe, PREFECT_API_URL=pooled.environment["PREFECT_API_URL"]
    )
    cache(forks, alone).succeed()
    assert records_in(store) == records_in(LocalStore(alone.home / "store"))
    # Nothing is missing any more, so nothing is started.
    assert "0 encoded, 25 reused" in cache(forks, pooled).succeed()
    assert runs_of(client, deployment).keys() == started


# Over the API, without a worker


@flow(name="idle")
def nothing(n: int) -> None:
    """Never runs: only its deployment is wanted."""


@pytest.fixture
def idle(client: SyncPrefectClient, request: pytest.FixtureRequest) -> str:
    """A deployment on a pool that no worker polls; one for each test."""
    name = re.sub(r"\W", "-", request.node.name)[:60]
    client.create_work_pool(WorkPoolCreate(name=name, type="process"))
    client.create_deployment(client.create_flow(nothing), name=name, work_pool_name=name)
    return f"idle/{name}"


def children(*keys: str) -> list[Child]:
    return [Child(name=key, key=key * 20, parameters={"n": 1}) for key in keys]


def fan_out(deployment: str, *keys: str, bounds: Bounds = PATIENT) -> tuple[Ended[str], ...]:
    elsewhere = Elsewhere(deployment, lambda run: f"report of {run}", bounds)
    with open_pool(deployment) as pool:
        return run_on_pool(pool, children(*keys), elsewhere=elsewhere, on_ended=lambda _: None)


class Aside(threading.Thread):
    """A parent in a thread of its own, while the test plays the worker."""

    def __init__(self, call: Callable[[], tuple[Ended[str], ...]], prefect_url: str) -> None:
        super().__init__()
        self._call = call
        self._url = prefect_url
        self.ended: tuple[Ended[str], ...] = ()
        self.start()

    def run(self) -> None:
        with temporary_settings({PREFECT_API_URL: self._url}):
            self.ended = self._call()

    def result(self) -> tuple[Ended[str], ...]:
        self.join(SECONDS)
        assert not self.is_alive()
        return self.ended


def wait_for_runs(client: SyncPrefectClient, deployment: str, count: int) -> dict[str, FlowRun]:
    deadline = time.monotonic() + SECONDS
    while len(found := runs_of(client, deployment)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return {run.name: run for run in found.values()}


def test_every_end_is_told_apart(client: SyncPrefectClient, idle: str, prefect_url: str) -> None:
    ends: dict[str, State] = {
        "a": Completed(),
        "b": Failed(message="Flow run encountered an exception: DataError: mend\nthis"),
        "c": Failed(message="Flow run encountered an exception: KeyError: 'x'"),
        "d": Crashed(message="Process exited with status code: -9"),
        "e": Cancelled(message="by a person"),
    }
    parent = Aside(lambda: fan_out(idle, *ends), prefect_url)
    runs = wait_for_runs(client, idle, len(ends))
    for name, state in ends.items():
        client.set_flow_run_state(runs[name].id, state, force=True)
    good, *bad = parent.result()
    assert good.report == f"report of {runs['a'].id}"
    assert [type(one.error) for one in bad] == [DataError, CogvxError, TransientError, CogvxError]
    assert [str(one.error) for one in bad] == [
        "mend\nthis",
        "its run c failed: Flow run encountered an exception: KeyError: 'x'",
        "the process of its run d ended early: Process exited with status code: -9",
        "its run e was cancelled in Prefect: by a person; run again to go on",
    ]


@flow
def strict(deployment: str, key: str) -> None:
    """A parent that needs its children."""
    require_all(fan_out(deployment, key))


def test_a_parent_says_what_its_child_said_its_name_and_where_to_look(
    client: SyncPrefectClient, idle: str, prefect_url: str
) -> None:
    said = "DataError: clip 7 is torn; mend it"
    ends: dict[str, tuple[State, str]] = {
        "a": (Failed(message=f"Flow run encountered an exception: {said}"), said),
        "b": (Cancelled(), "its run b was cancelled in Prefect; run again to go on"),
    }
    for key, (end, expected) in ends.items():
        states: list[State] = []

        def call(key: str = key, states: list[State] = states) -> tuple[Ended[str], ...]:
            states.append(strict(idle, key, return_state=True))
            return ()

        parent = Aside(call, prefect_url)
        run = wait_for_runs(client, idle, len(states) + 1 if key == "a" else 2)[key]
        client.set_flow_run_state(run.id, end, force=True)
        parent.result()
        message = str(states[0].message)
        assert states[0].name == "Failed"
        assert expected in message
        page = f"{prefect_url.removesuffix('/api')}/runs/flow-run/{run.id}"
        assert f"in {key}: {page}" in message


def test_a_parent_has_a_table_of_its_children(
    client: SyncPrefectClient, idle: str, prefect_url: str
) -> None:
    @flow
    def watched(deployment: str) -> UUID:
        elsewhere = Elsewhere(deployment, lambda run: f"report of {run}")
        run_children(nothing, children("a", "b"), what="Two of them", elsewhere=elsewhere)
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        return context.flow_run.id

    found: list[UUID] = []

    def call() -> tuple[Ended[str], ...]:
        found.append(watched(idle))
        return ()

    parent = Aside(call, prefect_url)
    runs = wait_for_runs(client, idle, 2)
    client.set_flow_run_state(runs["a"].id, Completed(), force=True)
    client.set_flow_run_state(runs["b"].id, Crashed(message="no memory"), force=True)
    parent.result()
    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=found))
    (table,) = [
        each
        for each in client.read_artifacts(artifact_filter=mine)
        if each.key == "two-of-them-by-run"
    ]
    first, second = json.loads(str(table.data))
    assert (first["what"], first["state"], first["why"]) == ("a", "Completed", "")
    assert first["page"].endswith(f"/runs/flow-run/{runs['a'].id}")
    assert (second["what"], second["state"]) == ("b", "Crashed")
    assert "no memory" in second["why"]


@flow(name="good")
def good(recipe: Recipe) -> str:
    return recipe.name


@flow(name="bad")
def bad(recipe: Recipe) -> str:
    raise DataError(f"{recipe.name} has no clips; bring some")


@flow
def chain() -> str:
    """Two stages in one process; for a test and for its server."""
    stages = Stages()
    done = run_child(good, toy_recipe(), stages=stages)
    run_child(bad, toy_recipe(), stages=stages)
    return done


def test_stages_in_one_process_stand_in_their_parents_table_and_raise_what_they_raised(
    client: SyncPrefectClient,
) -> None:
    state: State = chain(return_state=True)
    assert "DataError: toy has no clips; bring some" in str(state.message)
    mine = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
    )
    shown = client.read_artifacts(artifact_filter=mine)
    (table,) = [each for each in shown if each.key == "stages"]
    first, second = json.loads(str(table.data))
    assert (first["what"], first["state"]) == ("good", "Completed")
    assert (second["what"], second["state"]) == ("bad", "Failed")
    assert second["why"] == "toy has no clips; bring some"
    assert "/runs/flow-run/" in first["page"]


def test_a_run_that_takes_too_long_is_cancelled_and_says_so(
    client: SyncPrefectClient, idle: str, prefect_url: str
) -> None:
    bounds = Bounds(stage=1.5)
    parent = Aside(lambda: fan_out(idle, "a", bounds=bounds), prefect_url)
    run = wait_for_runs(client, idle, 1)["a"].id
    client.set_flow_run_state(run, Running(), force=True)
    deadline = time.monotonic() + SECONDS
    while client.read_flow_run(run).state_name != "Cancelling":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    client.set_flow_run_state(run, Cancelled(), force=True)  # its worker has stopped it
    error = parent.result()[0].error
    assert isinstance(error, TransientError)
    assert "was cancelled after 0.000417 h (COGVX_STAGE_HOURS)" in str(error)


def test_a_run_that_nobody_stops_is_given_up(
    client: SyncPrefectClient, idle: str, prefect_url: str
) -> None:
    parent = Aside(lambda: fan_out(idle, "a", bounds=Bounds(lost=1.5)), prefect_url)
    run = wait_for_runs(client, idle, 1)["a"].id
    client.set_flow_run_state(run, Running(), force=True)
    client.set_flow_run_state(run, Cancelling())
    error = parent.result()[0].error
    assert isinstance(error, TransientError)
    state = client.read_flow_run(run).state
    assert state is not None
    assert state.name == "Cancelled"
    for said in (str(error), str(state.message)):
        assert "s after it was told to stop nobody had stopped it; its worker may be lost" in said


def test_parents_share_a_run_until_it_ended(
    client: SyncPrefectClient, idle: str, prefect_url: str
) -> None:
    first, second = (Aside(lambda: fan_out(idle, "a"), prefect_url) for _ in range(2))
    run = wait_for_runs(client, idle, 1)["a"]
    time.sleep(1)
    client.set_flow_run_state(run.id, Failed(message="no"), force=True)
    assert str(first.result()[0].error) == str(second.result()[0].error)
    assert list(runs_of(client, idle)) == [run.id]
    later = Aside(lambda: fan_out(idle, "a"), prefect_url)
    wait_for_runs(client, idle, 2)
    for each in runs_of(client, idle):
        client.set_flow_run_state(each, Completed(), force=True)
    assert later.result()[0].error is None


def test_without_a_worker_a_person_is_told_and_patience_ends(
    client: SyncPrefectClient,
    idle: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.pools.lookout._WARN_AFTER_SECONDS", 0.2)
    caplog.set_level(logging.WARNING, "tasks")
    (ended,) = fan_out(idle, "a", bounds=Bounds(patience=3))
    pool = idle.removeprefix("idle/")
    assert isinstance(ended.error, TransientError)
    assert f'3 s in which no worker polls work pool "{pool}"' in str(ended.error)
    (warning,) = [line for line in caplog.messages if "no worker" in line]
    assert f'tasks.clients.tend -- prefect worker start --pool "{pool}" --limit 1`' in warning
    assert [run.state_name for run in runs_of(client, idle).values()] == ["Cancelled"]


def test_an_absent_deployment_is_the_callers_to_mend(client: SyncPrefectClient) -> None:
    with pytest.raises(ConfigError, match=r"idle/nowhere.*cogvx deploy --apply"):
        fan_out("idle/nowhere", "a")


@flow
def parent(deployment: str) -> None:
    """For `Forks.start`."""
    fan_out(deployment, "a", "b")


@pytest.mark.parametrize("way", ["interrupt", "in Prefect"])
def test_cancelling_the_parent_cancels_its_children(
    way: str, client: SyncPrefectClient, idle: str, prefect_url: str, forks: Forks
) -> None:
    process = forks.start(
        "tests.e2e.test_cache_pool:parent",
        idle,
        environment={**os.environ, "PREFECT_API_URL": prefect_url},
        cwd=ROOT,
    )
    runs = wait_for_runs(client, idle, 2)
    client.set_flow_run_state(runs["a"].id, Running(), force=True)
    if way == "interrupt":
        os.kill(process.pid, signal.SIGINT)
    else:
        assert runs["a"].parent_task_run_id is not None
        above = client.read_task_run(runs["a"].parent_task_run_id).flow_run_id
        assert above is not None
        client.set_flow_run_state(above, Cancelling())
    status, printed = process.wait(), process.output.read_text()
    assert status != 0, printed
    states = {run.name: run.state_name for run in runs_of(client, idle).values()}
    # One runs, and its worker is to stop it; the other is nobody's.
    assert states == {"a": "Cancelling", "b": "Cancelled"}, printed
