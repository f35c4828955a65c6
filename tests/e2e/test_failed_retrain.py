"""A retraining that fails tells its owner on its page what failed, what is kept, and what to do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Failed, Pending

from cogvx.check import check_file
from cogvx.digest import digest
from cogvx.runs.carry import latest_key
from cogvx.runs.saved import Pointer
from cogvx.store import LocalStore
from flows.retrain import retrain
from tasks.pools.metering import attempts_of
from tasks.retraining.failures import tell_failure
from tasks.settings import settings
from tests.e2e.conftest import make_place, write_recipe
from tests.fixtures.forks import Forks


@pytest.fixture(scope="module")
def pages(
    tmp_path_factory: pytest.TempPathFactory,
    nano_base: Path,
    world_clips: Path,
    prefect_url: str,
    forks: Forks,
) -> list[str]:
    """What a retraining leaves that trains, and finds a file where its adapter should go."""
    root = tmp_path_factory.mktemp("failed")
    recipe = write_recipe(
        root / "recipe.toml", clips=str(world_clips), base=nano_base, name="failed"
    )
    place = make_place(root, recipe, PREFECT_API_URL=prefect_url)
    (place.home / "store").mkdir(parents=True)
    (place.home / "store" / "adapters").write_text("in the way")
    job = forks.start(
        "tests.fixtures.forks:call_cli",
        "retrain",
        str(recipe),
        environment=place.environment,
        cwd=root,
    )
    assert job.wait() != 0, job.output.read_text()
    mine = ArtifactFilter(key=ArtifactFilterKey(any_=["summary-failed"]))
    with temporary_settings({PREFECT_API_URL: prefect_url}), get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=mine)
        parents = {client.read_flow_run(each.flow_run_id).name for each in found}
    assert len(parents) == 1
    assert parents.pop().startswith("retrain failed on clips ")
    return [str(each.data) for each in found]


def test_its_one_summary_says_where_why_and_what_is_kept(pages: list[str]) -> None:
    (page,) = pages
    assert page.startswith("# Failed in train: failed\n\n[the run of train](http://")
    assert "adapters" in page.partition("```text")[2].partition("```")[0]
    assert "it goes on from the checkpoint at step 8 of 8" in page
    assert "`cogvx retrain RECIPE`" in page
    assert "| records | of all clips, listed in `indexes/" in page
    assert "| checkpoint | at step 8 of 8, in `" in page
    assert "| since the last adapter |" in page


# What cannot be found out costs that line, never the page

RUN = digest("a run that was begun")
ENDED = Failed(message="Flow run encountered an exception: TransientError: the store was away")


@pytest.fixture
def client(prefect_url: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: prefect_url}), get_client(sync_client=True) as found:
        yield found


@pytest.fixture
def parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nano_base: Path
) -> Iterator[dict[str, Any]]:
    """Of a retraining with a checkpoint in the store."""
    monkeypatch.setenv("COGVX_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    pointer = Pointer(step=4, folder="step-00000004")
    store = LocalStore(tmp_path / "home" / "store")
    store.write(latest_key(RUN), pointer.model_dump_json().encode())
    (tmp_path / "clips").mkdir()
    recipe = write_recipe(
        tmp_path / "recipe.toml", clips=str(tmp_path / "clips"), base=nano_base, name="untold"
    )
    found = check_file(recipe, absent_is_fine=True).recipe
    yield {"recipe": found.model_dump(mode="json", exclude_none=True)}
    settings.cache_clear()


def told(client: SyncPrefectClient, run: FlowRun) -> list[str]:
    """The pages that a run of these ends has."""
    tell_failure(retrain, run, ENDED)
    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
    return [str(each.data) for each in client.read_artifacts(artifact_filter=mine)]


def begun(client: SyncPrefectClient, parameters: dict[str, Any]) -> FlowRun:
    return client.create_flow_run(
        retrain, parameters=parameters, tags=[f"run:{RUN[:12]}"], state=Pending()
    )


def test_a_run_whose_deployment_was_removed_meanwhile_has_its_page(
    client: SyncPrefectClient, parameters: dict[str, Any]
) -> None:
    flow = client.create_flow_from_name(retrain.name)
    deployment = client.create_deployment(flow, "removed")
    made = client.create_flow_run_from_deployment(
        deployment, parameters=parameters, tags=[f"run:{RUN[:12]}"], state=Pending()
    )
    client.delete_deployment(deployment)
    (page,) = told(client, made)
    assert "the store was away" in page
    assert "at step 4 of 8" in page
    assert "its deployment is gone" in page
    assert "`cogvx retrain RECIPE`" in page


def test_a_run_that_was_deleted_raises_nothing(
    client: SyncPrefectClient, parameters: dict[str, Any]
) -> None:
    run = begun(client, parameters)
    client.delete_flow_run(run.id)
    assert told(client, run) == []


def test_a_damaged_document_costs_its_line_alone(
    client: SyncPrefectClient, parameters: dict[str, Any], tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "home" / "store")
    store.write(f"{attempts_of('untold')}1.json", b"damaged")
    store.write(f"runs/{RUN}/outcome.json", b"damaged")
    (page,) = told(client, begun(client, parameters))
    assert "at step 4 of 8" in page


# A name that no disk takes, and a place of no kind that is known.
@pytest.mark.parametrize("place", ["/" + "long" * 100, "ftp://nowhere"])
def test_a_store_that_cannot_be_asked_costs_what_it_knows_and_never_the_page(
    client: SyncPrefectClient,
    parameters: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    monkeypatch.setenv("COGVX_STORE_URL", place)
    settings.cache_clear()
    (page,) = told(client, begun(client, parameters))
    assert "the store was away" in page
    assert "`cogvx retrain RECIPE`" in page
