"""A retraining that has finished stays finished, whatever becomes of the pages that tell of it."""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.publish import stage_times

TRAIN, EVALUATE = uuid4(), uuid4()
FLOWS = [{"id": str(TRAIN), "name": "train"}, {"id": str(EVALUATE), "name": "evaluate"}]
RUNS = [
    {"id": str(uuid4()), "flow_id": str(flow), "name": name, "total_run_time": 60.0}
    for flow, name in ((TRAIN, "train one"), (EVALUATE, "evaluate one"))
]


@contextmanager
def prefect_that_answers(answers: dict[str, object]) -> Iterator[None]:
    """A flow run under way at a server that knows these answers by path, and fails otherwise."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # a token, which servers without such checks do not give
            self._answer(404)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(200 if self.path in answers else 500)

        def _answer(self, status: int) -> None:
            body = json.dumps(answers.get(self.path, {"detail": "it restarts"})).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        run = FlowRun(id=uuid4(), flow_id=uuid4(), name="retrain")
        try:
            with (
                temporary_settings({PREFECT_API_URL: url}),
                FlowRunContext.model_construct(flow_run=run),
            ):
                yield
        finally:
            server.shutdown()
            thread.join()


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
