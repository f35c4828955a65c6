"""Which runs `cogvx up` calls crashed, on a real server: those that nobody executes any more."""

from datetime import timedelta

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.states import Pending, Running

from deployments.up import runs as up_runs
from deployments.up.runs import settle
from deployments.up.services import worker_name
from tests.fixtures.deployed import deploy_beside

WHY = "its worker was killed"


@flow(name="errand")
def errand() -> None:
    """Never executed here: only its runs' states are looked at."""


def running(client: SyncPrefectClient, pool: str) -> FlowRun:
    """A run that a worker of the pool took and began."""
    name = deploy_beside(client, errand, pool=pool)
    run = client.create_flow_run_from_deployment(client.read_deployment_by_name(name).id)
    client.set_flow_run_state(run.id, Running(), force=True)
    return run


def heard(client: SyncPrefectClient, pool: str, worker: str) -> None:
    """What a worker sends every 30 s."""
    client.send_worker_heartbeat(pool, worker, heartbeat_interval_seconds=30)


def state(client: SyncPrefectClient, run: FlowRun) -> str | None:
    return client.read_flow_run(run.id).state_name


def test_runs_of_a_pool_that_another_worker_polls_are_left(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = ("mine", "shared", "foreign")
    mine, shared, foreign = (running(client, pool) for pool in pools)
    heard(client, "mine", worker_name("worker-mine"))
    heard(client, "mine", worker_name("worker-mine-3"))  # of an `up` that had more GPUs
    heard(client, "shared", worker_name("worker-shared"))
    heard(client, "shared", "ProcessWorker 7")
    heard(client, "foreign", "mine on another machine")
    crashed, left = settle(client, ["mine", "shared", "deleted"], WHY)
    assert [run.id for run in crashed] == [mine.id]
    assert [run.id for run in left] == [shared.id]
    assert [state(client, run) for run in (mine, shared, foreign)] == [
        *("Crashed", "Running", "Running"),
    ]
    monkeypatch.setattr(up_runs, "WORKER_SILENCE", timedelta())  # as if that worker fell silent
    crashed, left = settle(client, ["mine", "shared"], WHY)
    assert ([run.id for run in crashed], left) == ([shared.id], [])
    assert [state(client, run) for run in (shared, foreign)] == ["Crashed", "Running"]


def test_a_run_that_the_server_will_not_end_yet_stands_in_nobodys_way(
    client: SyncPrefectClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Its deployment was removed with the limit of which it holds a slot until its lease ends."""
    limited = client.read_deployment_by_name(deploy_beside(client, errand, pool="limited")).id
    client.update_deployment(limited, DeploymentUpdate(concurrency_limit=1))
    stuck = client.create_flow_run_from_deployment(limited)
    client.set_flow_run_state(stuck.id, Pending())
    client.delete_deployment(limited)
    other = running(client, "limited")
    crashed, left = settle(client, ["limited"], WHY)
    assert ([run.id for run in crashed], left) == ([other.id], [])
    assert [state(client, run) for run in (stuck, other)] == ["Pending", "Crashed"]
    assert f"{stuck.name} is executed by nobody, and cannot be called Crashed yet" in caplog.text
