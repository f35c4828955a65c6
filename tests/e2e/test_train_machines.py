"""Two machines train one run: each with a home of its own, and nothing shared but the store."""

from pathlib import Path

import pytest

from cogvx.model.nano.world import render_world
from cogvx.runs.folder import RunFolder
from cogvx.store import LocalStore
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
    text = text.replace("micro_batch = 2", "micro_batch = 1\nprocesses = 2")
    recipe.write_text(text)
    found = make_place(
        root,
        recipe,
        PREFECT_API_URL=prefect_url,
        COGVX_STORE_URL=str(root / "store"),
        COGVX_MACHINES="2",
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


def test_the_one_that_leads_has_the_adapter_and_the_other_ends_with_it(
    place: Place, forks: Forks
) -> None:
    joined, led = start(forks, place, 1, "--join"), start(forks, place, 0)
    assert "4 steps" in led.succeed()
    joined.succeed()
    (run,) = {
        entry.key.split("/")[1] for entry in LocalStore(place.root / "store").entries("runs/")
    }
    first, second = (
        RunFolder(place.root / f"home-{rank}" / "runs" / name)
        for rank, name in enumerate((run[:16], f"{run[:16]}-1"))
    )
    assert first.adapter_file.is_file()
    assert second.spec.is_file()
    assert not second.events.exists()
    assert not second.checkpoints.exists()


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
