"""Which runs `cogvx up` calls crashed, on a real server: those that nobody executes any more."""

from datetime import timedelta

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Running

from deployments.apply import apply
from deployments.up import runs as up_runs
from deployments.up.runs import settle
from deployments.up.services import worker_name

WHY = "its worker was killed"


@flow(name="errand")
def errand() -> None:
    """Never executed here: only its runs' states are looked at."""


def running(client: SyncPrefectClient, pool: str) -> FlowRun:
    """A run that a worker of the pool took and began."""
    name = apply(client, errand, pool=pool)
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
