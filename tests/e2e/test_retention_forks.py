"""A sweep asks Prefect which runs are about to be begun with: no run in the store says so yet."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Scheduled

from cogvx.digest import digest
from cogvx.errors import TransientError
from cogvx.runs.carry import latest_key
from cogvx.runs.saved import Pointer
from cogvx.store import LocalStore
from deployments.apply import apply_catalog
from deployments.catalog import load_catalog
from deployments.rows import desired
from flows.retention import retention
from flows.retrain import retrain
from tasks.keeping import deployed_forks as listing
from tasks.keeping.deployed_forks import deployed_forks
from tasks.keeping.housekeeping_documents import RetentionReport
from tasks.keeping.retention import sweep_store
from tasks.settings import settings
from tests.e2e.conftest import write_recipe
from tests.fixtures.servers import free_port

OLD = digest("a run that nobody went on with")
CATALOG = """
[pools.cpu]
[pools.gpu-cache]
[pools.gpu-train]
[pools.gpu-eval]
[[recipes]]
file = "recipe.toml"
"""


@pytest.fixture(scope="module")
def client(prefect_url: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: prefect_url}), get_client(sync_client=True) as found:
        yield found


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStore]:
    """One unfinished run with a checkpoint, untouched for a year."""
    monkeypatch.setenv("COGVX_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    store = LocalStore(tmp_path / "home" / "store")
    spec = {"schema_version": 1, "manifest": "m", "train": [], "heldout": [], "empty_prompt": "e"}
    store.write(f"runs/{OLD}/run.json", json.dumps(spec).encode())
    pointer = Pointer(step=4, folder="step-00000004")
    store.write(latest_key(OLD), pointer.model_dump_json().encode())
    store.write(f"runs/{OLD}/checkpoints/step-00000004/state.json", b"{}")
    then = time.time() - 365 * 86_400
    for info in list(store.entries()):
        os.utime(store.root / info.key, (then, then))
    yield store
    settings.cache_clear()


def deploy(client: SyncPrefectClient, root: Path, base: Path, *, fork_of: str | None) -> None:
    """Apply a catalog of one recipe, which has never run."""
    recipe = write_recipe(root / "recipe.toml", clips=str(root), base=base, name="forked")
    if fork_of is not None:
        text = recipe.read_text()
        recipe.write_text(text.replace("[train]\n", f'[train]\nfork_of = "{fork_of}"\n'))
    (root / "catalog.toml").write_text(CATALOG)
    apply_catalog(client, desired(load_catalog(root / "catalog.toml")))


def sweep() -> RetentionReport:
    return retention(apply=True, keep_days=0, grace_days=0, keep_last=0)


def keys(store: LocalStore) -> set[str]:
    return {info.key for info in store.entries("runs/")}


def test_what_a_deployed_recipe_begins_with_stays_until_no_recipe_names_it(
    client: SyncPrefectClient, store: LocalStore, tmp_path: Path, nano_base: Path
) -> None:
    before = keys(store)
    deploy(client, tmp_path, nano_base, fork_of=OLD)
    assert not sweep().goes
    assert keys(store) == before
    deploy(client, tmp_path, nano_base, fork_of=None)
    assert {going.kind for going in sweep().goes} == {"runs", "resumes", "checkpoints"}
    assert not keys(store)


def test_what_a_run_that_waits_begins_with_stays(
    client: SyncPrefectClient, store: LocalStore
) -> None:
    before, waiting = keys(store), wait_with(client, OLD)
    assert not sweep().goes
    assert keys(store) == before
    client.set_flow_run_state(waiting, Cancelled(), force=True)
    sweep()
    assert not keys(store)


def wait_with(client: SyncPrefectClient, fork_of: str) -> UUID:
    """A flow run with a recipe that somebody edited in the form."""
    parameters = {"recipe": {"train": {"fork_of": fork_of}}}
    return client.create_flow_run(retrain, parameters=parameters, state=Scheduled()).id


def test_what_ends_while_pages_are_read_hides_nothing(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_PAGE", 2)
    flow = client.create_flow_from_name("listed")
    deployments = [
        client.create_deployment(
            flow, f"listed-{number}", parameters={"recipe": {"train": {"fork_of": f"row {number}"}}}
        )
        for number in range(6)
    ]
    runs = {f"run {number}": wait_with(client, f"run {number}") for number in range(6)}
    named = list[str]()
    try:
        for parameters in listing._parameters(client):
            named.append(str(parameters.get("recipe", {}).get("train", {}).get("fork_of")))
            if named[-1] in runs:
                client.set_flow_run_state(runs[named[-1]], Cancelled(), force=True)
            elif named[-1].startswith("row "):
                client.delete_deployment(deployments[int(named[-1].removeprefix("row "))])
    finally:
        for run in runs.values():
            client.set_flow_run_state(run, Cancelled(), force=True)
    assert {name for name in named if name in runs} == set(runs)
    assert sum(name.startswith("row ") for name in named) == len(deployments)


def test_without_an_answer_of_prefect_nothing_is_removed(store: LocalStore) -> None:
    before = keys(store)
    nobody = f"http://127.0.0.1:{free_port()}/api"
    with (
        temporary_settings({PREFECT_API_URL: nobody}),
        pytest.raises(TransientError, match=r"nothing is pruned.*list what is deployed"),
    ):
        sweep_store.fn(
            apply=True, keep_days=0, grace_days=0, keep_last=0, begun_with=deployed_forks
        )
    assert keys(store) == before
