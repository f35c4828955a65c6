"""Three machines train one run: each with a home of its own, and nothing shared but the store.

One is joined by hand, and one as a pod that knows no more than its number and its flow run.
"""

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from cogvx.check import check_file
from cogvx.errors import ConfigError
from cogvx.model.nano.world import render_world
from cogvx.runs.folder import RunFolder
from cogvx.store import LocalStore
from flows.train import train
from tasks.training.join import led_recipe
from tests.e2e.conftest import Place, make_place, write_recipe
from tests.fixtures.forks import Forks, Job
from tests.fixtures.servers import free_port

CLI = "tests.fixtures.forks:call_cli"


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, nano_base: Path, prefect_url: str, forks: Forks
) -> Place:
    root = tmp_path_factory.mktemp("machines")
    render_world(root / "clips", clips=3, seed=5)
    recipe = write_recipe(root / "recipe.toml", clips=str(root / "clips"), base=nano_base, steps=4)
    text = recipe.read_text().replace("= 48", "= 16").replace("min_heldout = 3", "min_heldout = 1")
    text = text.replace("micro_batch = 2", "micro_batch = 1\nprocesses = 3")
    text = text.replace("global_batch = 2", "global_batch = 3")
    recipe.write_text(text)
    found = make_place(
        root,
        recipe,
        PREFECT_API_URL=prefect_url,
        COGVX_STORE_URL=str(root / "store"),
        COGVX_MACHINES="3",
        COGVX_MAIN_ADDRESS="127.0.0.1",
        COGVX_MAIN_PORT=str(free_port()),
    )
    forks.start(CLI, "cache", str(recipe), environment=found.environment, cwd=root).succeed()
    return found


def start(forks: Forks, place: Place, rank: int, *words: str) -> Job:
    own = {"COGVX_HOME": str(place.root / f"home-{rank}"), "COGVX_MACHINE_RANK": str(rank)}
    return forks.start(
        CLI,
        "train",
        str(place.recipe),
        *words,
        environment={**place.environment, **own},
        cwd=place.root,
    )


def start_pod(forks: Forks, place: Place, rank: int, flow_run: str) -> Job:
    own = {"COGVX_HOME": str(place.root / f"home-{rank}"), "JOB_COMPLETION_INDEX": str(rank)}
    own |= {"PREFECT__FLOW_RUN_ID": flow_run}
    environment = {**place.environment, **own}
    return forks.start("flows.join:main", environment=environment, cwd=place.root)


@pytest.fixture
def flow_run(place: Place, prefect_url: str) -> str:
    """One that trains, as pod 0 would execute it."""
    recipe = check_file(place.recipe).recipe.model_dump(mode="json", exclude_none=True)
    with temporary_settings({PREFECT_API_URL: prefect_url}), get_client(sync_client=True) as client:
        made = client.create_deployment(client.create_flow(train), name="pods")
        return str(client.create_flow_run_from_deployment(made, parameters={"recipe": recipe}).id)


def test_a_pod_without_a_flow_run_says_what_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT__FLOW_RUN_ID", raising=False)
    with pytest.raises(ConfigError, match="no pod of a flow run; use `cogvx train RECIPE --join`"):
        led_recipe()


def test_the_one_that_leads_has_the_adapter_and_the_others_end_with_it(
    place: Place, forks: Forks, flow_run: str
) -> None:
    joined = [start(forks, place, 1, "--join"), start_pod(forks, place, 2, flow_run)]
    assert "4 steps" in start(forks, place, 0).succeed()
    for each in joined:
        each.succeed()
    (run,) = {
        entry.key.split("/")[1] for entry in LocalStore(place.root / "store").entries("runs/")
    }
    first, *others = (
        RunFolder(place.root / f"home-{rank}" / "runs" / name)
        for rank, name in enumerate((run[:16], f"{run[:16]}-1", f"{run[:16]}-2"))
    )
    assert first.adapter_file.is_file()
    for other in others:
        assert other.spec.is_file()
        assert not other.events.exists()
        assert not other.checkpoints.exists()


@pytest.mark.parametrize(
    ("rank", "words", "told"),
    [(0, ["--join"], "is the machine that leads"), (1, [], "use `cogvx train RECIPE --join`")],
)
def test_a_machine_in_the_wrong_part_is_told(
    place: Place, forks: Forks, rank: int, words: list[str], told: str
) -> None:
    job = start(forks, place, rank, *words)
    assert job.wait() == 2
    assert told in job.output.read_text()
