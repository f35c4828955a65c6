"""Whatever ends a retraining at night: right states, no process left, and the next one goes on.

One training is ended again and again, each time in another way, on a real server with its services
and on a worker for each pool; at last it is left alone, and has made the adapter that nobody would
have disturbed. The table in docs/cancellation.md is what this prints.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cogvx.model.nano.world import render_world
from tests.e2e import night as nights
from tests.e2e.conftest import Place, make_place, write_recipe
from tests.e2e.night import PROMISED_SECONDS, Night, Row, outcome
from tests.e2e.operation import CPU, TRAIN, Operation, operating

STEPS = 3000  # more than an idle machine trains while the server restarts twice


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few") / "clips"
    render_world(folder, clips=3, seed=5)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, nano_base: Path, clips: Path) -> Place:
    return make_small_place(tmp_path_factory.mktemp("night"), nano_base, clips)


def make_small_place(root: Path, base: Path, clips: Path) -> Place:
    """A place whose recipe has two processes train on small clips."""
    recipe = write_recipe(root / "recipe.toml", clips=str(clips), base=base, steps=STEPS)
    text = recipe.read_text()
    for old, new in (
        ("= 48", "= 16"),
        ("min_heldout = 3", "min_heldout = 1"),
        ("heldout_every = 8", "heldout_every = 1000000"),
        ("checkpoint_every = 4", "checkpoint_every = 10"),
        ("micro_batch = 2", "micro_batch = 1\nprocesses = 2"),
    ):
        assert old in text
        text = text.replace(old, new)
    recipe.write_text(text)
    return make_place(root, recipe)


@pytest.fixture(scope="module")
def operation(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operation]:
    with operating(place, tmp_path_factory.mktemp("operation")) as found:
        yield found


@pytest.fixture(scope="module")
def table() -> Iterator[list[Row]]:
    """A row for each night so far; printed at the end."""
    rows: list[Row] = []
    yield rows
    print("\n" + Row.HEAD, *rows, sep="\n")


def begin(operation: Operation, table: list[Row], *, tended: bool = True) -> Night:
    """The next night, which goes on where the one before was ended."""
    operation.hire(CPU)
    operation.hire(TRAIN, tended=tended)
    last = table[-1] if table else None
    night = Night(operation, beyond=0 if last is None else last.checkpoint)
    if last is not None:
        table[-1] = replace(last, resumed=night.began_at)
        assert night.began_at == last.checkpoint, last
    return night


def note(row: Row, table: list[Row]) -> None:
    """Keep a row that must be as promised."""
    table.append(row)
    print(f"\n{row}")
    assert max(row.child_seconds, row.parent_seconds, row.gone_seconds) < PROMISED_SECONDS, row


Deed = Callable[[Night], None]
ENDS: dict[str, tuple[Deed, str, str, str]] = {
    "the retrain run is cancelled": (nights.cancel_parent, "Cancelled", "Cancelled", ""),
    "the training worker gets SIGTERM": (nights.stop_worker, "Crashed", "Failed", "ended early"),
    "the train run is cancelled": (nights.cancel_child, "Cancelled", "Failed", "was cancelled"),
    "the train run's process is killed": (nights.kill_engine, "Crashed", "Failed", "ended early"),
    "one of two trainers is killed": (nights.kill_rank, "Failed", "Failed", "SIGKILL"),
    # by its tender, unless it sees it first
    "the training worker is killed": (
        nights.kill_worker,
        "Crashed|Failed",
        "Failed",
        "ended early|worker .* is gone",
    ),
    "the training machine loses power": (nights.lose_machine, "Crashed", "Failed", "heartbeat"),
    "the retrain run's worker gets SIGTERM": (
        nights.stop_parents_worker,
        "Cancelled",
        "Crashed",
        "",
    ),
    "the retrain run's worker is killed": (nights.kill_parents_worker, "Cancelled", "Crashed", ""),
}
QUICK = 1
"""As many of them, the first, belong to every suite."""


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] * (n >= QUICK)) for n, case in enumerate(ENDS)],
)
def test_states_are_right_nothing_is_left_and_its_work_is_kept(
    case: str, operation: Operation, table: list[Row]
) -> None:
    deed, child, parent, says = ENDS[case]
    night = begin(operation, table)
    row = night.follow(case, deed)
    note(row, table)
    assert re.fullmatch(child, row.child), row
    assert row.parent == parent, row
    assert re.search(says, row.says), row
    assert row.checkpoint > 0
    if row.parent != "Crashed":  # of a run whose worker is gone as well nobody is there to tell
        summary = operation.summary(night.parent)
        assert summary.startswith(f"# {row.parent} in train: tiny\n"), summary
        assert "goes on from the checkpoint at step" in summary


@pytest.mark.slow
def test_a_worker_that_nobody_tends_leaves_a_run_that_is_found_dead(
    operation: Operation, table: list[Row]
) -> None:
    night = begin(operation, table, tended=False)
    row = night.follow("a training worker without tend gets SIGTERM", nights.stop_worker)
    note(row, table)
    assert (row.child, row.parent) == ("Crashed", "Failed"), row
    assert "no heartbeat" in row.says, row


@pytest.mark.slow
def test_a_run_can_be_cancelled_after_the_server_was_away(
    operation: Operation, table: list[Row]
) -> None:
    night = begin(operation, table)
    nights.restart_server(night)
    row = night.follow("the server restarts, the retrain run is cancelled", nights.cancel_parent)
    note(row, table)
    assert (row.child, row.parent) == ("Cancelled", "Cancelled"), row


@pytest.mark.slow
def test_training_outlives_its_retrain_run_and_the_next_one_makes_the_undisturbed_adapter(
    operation: Operation,
    table: list[Row],
    nano_base: Path,
    clips: Path,
    tmp_path: Path,
) -> None:
    first = begin(operation, table)
    crashed = first.crash_parent()
    second = Night(operation, beyond=0)
    assert second.child == first.child
    nights.restart_server(second)
    row = second.complete(
        "the retrain run's process is killed; under the next one, the server restarts"
    )
    table.append(row)
    print(f"\n{row}\nthe killed one was Crashed after {crashed:.0f} s")
    assert crashed < PROMISED_SECONDS
    alone = make_small_place(tmp_path, nano_base, clips)
    alone.environment["PREFECT_API_URL"] = operation.url
    for stage in ("cache", "train"):
        alone.succeed(stage, str(alone.recipe), timeout=1200)
    assert outcome(operation.place.home) == (first.began_at, outcome(alone.home)[1])
