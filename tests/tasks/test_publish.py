"""A retraining that has finished stays finished, whatever becomes of the pages that tell of it."""

import logging
from uuid import uuid4

import pytest

from tasks.retraining.publish import stage_times
from tests.fixtures.away import prefect_that_answers

TRAIN, EVALUATE = uuid4(), uuid4()
FLOWS = [{"id": str(TRAIN), "name": "train"}, {"id": str(EVALUATE), "name": "evaluate"}]
RUNS = [
    {"id": str(uuid4()), "flow_id": str(flow), "name": name, "total_run_time": 60.0}
    for flow, name in ((TRAIN, "train one"), (EVALUATE, "evaluate one"))
]


def test_stages_have_the_names_of_their_flows() -> None:
    with prefect_that_answers({"/api/flow_runs/filter": RUNS, "/api/flows/filter": FLOWS}):
        assert [stage.name for stage in stage_times()] == ["train", "evaluate"]


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        pytest.param({}, [], id="at once"),
        pytest.param(
            {"/api/flow_runs/filter": RUNS}, ["train one", "evaluate one"], id="in between"
        ),
    ],
)
def test_a_server_that_goes_away_costs_the_page_and_nothing_else(
    answers: dict[str, object], told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "tasks")
    with prefect_that_answers(answers):
        assert [stage.name for stage in stage_times()] == told
    assert "stages: not shown in Prefect's pages" in caplog.text


def test_a_flow_that_was_removed_leaves_its_run_under_the_runs_own_name() -> None:
    with prefect_that_answers({"/api/flow_runs/filter": RUNS, "/api/flows/filter": FLOWS[:1]}):
        assert [stage.name for stage in stage_times()] == ["train", "evaluate one"]
