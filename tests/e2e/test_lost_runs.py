"""A run of which nobody hears any more is declared lost; one that gives signs of life is not.

On a Prefect server with its services, which keep the signs. The test plays worker and runs. Also
there: GPU slots, which a server gives back when whoever held them was killed.
"""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from subprocess import PIPE, Popen
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Running

from cogvx.errors import ConfigError, TransientError
from tasks.clients.pool import open_pool
from tasks.clients.slots import gpu_slots, require_slots
from tasks.pools.children import Child, Ended
from tasks.pools.fan_out import Elsewhere, run_on_pool
from tasks.pools.lookout import Bounds
from tasks.settings import Settings
from tests.fixtures.servers import prefect_server
from tests.fixtures.start import PYTHONPATH, ROOT

LOST_SECONDS = 8.0  # the server keeps signs within a second or two


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    soon = {"PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.5"}
    with prefect_server(tmp_path_factory.mktemp("served"), services=True, **soon) as url:
        yield url


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: server}), get_client(sync_client=True) as found:
        yield found


def beat(client: SyncPrefectClient, run: UUID) -> None:
    """A sign of life, as Prefect's engine sends it."""
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
    }
    client.request("POST", "/events", json=[event]).raise_for_status()


def test_a_run_that_falls_silent_is_lost_and_the_others_go_on(
    client: SyncPrefectClient, server: str
) -> None:
    from tests.e2e.test_cache_pool import nothing, runs_of

    client.create_work_pool(WorkPoolCreate(name="silent", type="process"))
    client.create_deployment(client.create_flow(nothing), name="silent", work_pool_name="silent")
    deployment = "idle/silent"
    ended: list[Ended[str]] = []

    def wait() -> None:
        bounds = Bounds(patience=120, lost=LOST_SECONDS)
        children = [Child(name=key, key=key * 20, parameters={"n": 1}) for key in "abc"]
        with temporary_settings({PREFECT_API_URL: server}), open_pool(deployment) as pool:
            elsewhere = Elsewhere(deployment, lambda run: f"report of {run}", bounds)
            ended.extend(run_on_pool(pool, children, elsewhere=elsewhere))

    parent = threading.Thread(target=wait)
    parent.start()
    until = time.monotonic() + 120
    while len(runs := {run.name: run for run in runs_of(client, deployment).values()}) < 3:
        assert time.monotonic() < until
        time.sleep(0.1)
    for run in runs.values():
        client.set_flow_run_state(run.id, Running(), force=True)
    silent, lively, mute = (runs[name].id for name in "abc")  # no sign of c is ever kept
    beat(client, silent)

    def state(run: UUID) -> FlowRun:
        return client.read_flow_run(run)

    while state(silent).state_name == "Running":
        assert parent.is_alive()
        assert time.monotonic() < until
        beat(client, lively)
        time.sleep(0.5)
    # by now they have outlived the bound themselves
    assert [state(run).state_name for run in (lively, mute)] == ["Running", "Running"]
    for run in (lively, mute):
        client.set_flow_run_state(run, Completed(), force=True)
    parent.join(60)
    assert not parent.is_alive()
    lost, *others = ended
    assert isinstance(lost.error, TransientError)
    assert re.search(
        r"was lost: no sign of life for \d+ s; its worker may have ended", str(lost.error)
    )
    assert state(silent).state_name == "Crashed"
    assert [one.error for one in others] == [None, None]


# GPU slots


def settings_with(name: str) -> Settings:
    return Settings(gpu_slots=name)


def limit(client: SyncPrefectClient, name: str, slots: int) -> Settings:
    client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=slots))
    return settings_with(name)


def taken(client: SyncPrefectClient, name: str) -> int:
    return client.read_global_concurrency_limit_by_name(name).active_slots


def test_slots_that_can_never_be_had_are_refused(client: SyncPrefectClient) -> None:
    with pytest.raises(
        ConfigError, match=r"is no concurrency limit at .*`none = 1` in its \[limits\]"
    ):
        require_slots(settings_with("none"), 1)
    few = limit(client, "cogvx-few", 2)
    with pytest.raises(ConfigError, match=r"has 2 slot.*occupies 4; .*`cogvx-few = 4` in its"):
        require_slots(few, 4)
    require_slots(few, 2)
    with gpu_slots(settings_with(""), 8):
        pass  # nobody asked for any


@pytest.mark.parametrize("end", [None, ValueError("a bug"), KeyboardInterrupt()])
def test_slots_are_held_while_a_block_lasts_and_given_back_however_it_ends(
    end: BaseException | None, client: SyncPrefectClient
) -> None:
    name = f"cogvx-held-{type(end).__name__.lower()}"
    here = limit(client, name, 3)

    def work() -> None:
        with gpu_slots(here, 2):
            assert taken(client, name) == 2
            if end is not None:
                raise end

    if end is None:
        work()
    else:
        with pytest.raises(type(end)):
            work()
    assert taken(client, name) == 0


def hold(name: str) -> None:
    """A flow run's process that holds a slot, and waits; for a process of its own."""
    with gpu_slots(settings_with(name), 1):
        print("held", flush=True)
        time.sleep(300)


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_told_to_end_gives_its_slot_back_and_a_killed_one_keeps_it_for_a_while(
    way: signal.Signals, client: SyncPrefectClient, server: str, tmp_path: Path
) -> None:
    name = f"cogvx-{way.name.lower()}"
    limit(client, name, 1)
    call = f"from tests.e2e.test_lost_runs import hold; hold({name!r})"
    environment = {**os.environ, "PREFECT_API_URL": server, "PYTHONPATH": PYTHONPATH}
    with Popen(
        [sys.executable, "-c", call], cwd=ROOT, env=environment, stdout=PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(way)
        process.wait(60)
    assert taken(client, name) == (0 if way is signal.SIGINT else 1)
