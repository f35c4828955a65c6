"""What a plan tells of a catalog without asking a server."""

from collections.abc import Callable

from deployments.plan import Change, compare, is_change
from deployments.rows import Desired
from deployments.server import NOTHING
from tests.deployments.conftest import FULL


def notes(plan: tuple[Change, ...]) -> list[str]:
    return [f"{change.name} {change.note}" for change in plan if not is_change(change)]


def test_arrivals_that_nobody_looks_for_are_told(rows: Callable[[str], Desired]) -> None:
    watched = FULL.replace('[notify]\nblock = "slack-webhook/ops"\n', "")
    assert notes(compare(NOTHING, rows(watched))) == []
    # Only of ships: the recipe of trains is paused, so that nothing would start it anyway.
    (note,) = notes(compare(NOTHING, rows(watched.replace("[watch]\nevery = 600\n", ""))))
    assert note == (
        "cogvx: clips of ships arrived waits for cogvx.dataset.arrived, and no watch/ships sends "
        "it; add [watch], unless something of yours does"
    )
