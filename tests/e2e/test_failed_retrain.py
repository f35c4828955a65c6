"""A retraining that fails tells its owner on its page what failed, what is kept, and what to do."""

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.settings import PREFECT_API_URL, temporary_settings

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
