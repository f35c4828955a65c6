"""What people are told, on a real Prefect server: of an outage once, and of each open question.

The catalog's own automations decide; a listener stands in for where people read their messages.
"""

import contextlib
import errno
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_sync
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending, State

from cogvx.check import check_file
from deployments.apply import apply_catalog
from deployments.catalog import load_catalog
from deployments.rows import Desired, desired
from flows.promote import promote
from flows.watch import watch
from tasks.caching.outage import STILL_FAILING
from tasks.settings import settings
from tests.e2e.conftest import write_recipe
from tests.fixtures.judged import SAME, keep_verdict, registered
from tests.fixtures.recipes import POOLS
from tests.fixtures.servers import prefect_server

CATALOG = f"""{POOLS}
[[recipes]]
file = "told.toml"
on_arrival = true

[watch]
every = 86400

[notify]
block = "custom-webhook/people"
"""
PAGES = "https://prefect.example"


class Inbox:
    """Where messages arrive, as (subject, body)."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str]] = []
        inbox = self.messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                inbox.append((body["subject"], body["body"]))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"

    def holds(self, count: int, begins: str) -> list[tuple[str, str]]:
        """The messages whose subject begins so, once there are so many, and no more in a second.

        A busy server sends one again whose sending it could not write down: of each run, which its
        page in the message tells, once counts.
        """
        deadline = time.monotonic() + 60
        while len(self._told(begins)) < count:
            assert time.monotonic() < deadline, self.messages
            time.sleep(0.1)
        time.sleep(1)
        assert len(self._told(begins)) == count, self.messages
        return self._told(begins)

    def _told(self, begins: str) -> list[tuple[str, str]]:
        return [each for each in dict.fromkeys(self.messages) if each[0].startswith(begins)]


@pytest.fixture(scope="module")
def inbox() -> Iterator[Inbox]:
    found = Inbox()
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, nano_base: Path) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("told")
    (root / "clips").mkdir()
    write_recipe(root / "told.toml", clips=str(root / "clips"), base=nano_base, name="told")
    (root / "catalog.toml").write_text(CATALOG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGVX_HOME", str(root / "home"))
        patch.setenv("PREFECT_UI_URL", PAGES)
        settings.cache_clear()
        yield root
    settings.cache_clear()


@pytest.fixture(scope="module")
def rows(root: Path) -> Desired:
    return desired(load_catalog(root / "catalog.toml"))


@pytest.fixture(scope="module")
def client(
    root: Path, rows: Desired, inbox: Inbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SyncPrefectClient]:
    """A server with the services that look at events, and the catalog deployed to it."""
    with (
        prefect_server(tmp_path_factory.mktemp("prefect"), services=True) as url,
        temporary_settings({PREFECT_API_URL: url}),
        get_client(sync_client=True) as found,
    ):
        said = {"subject": "{{subject}}", "body": "{{body}}"}
        block = CustomWebhookNotificationBlock(name="people", url=inbox.url, json_data=said)
        block.save("people")
        apply_catalog(found, rows)
        yield found


def run(
    client: SyncPrefectClient, flow: Flow[..., Any], name: str, parameters: Mapping[str, Any]
) -> tuple[UUID, State]:
    """A run of a deployment, in this process; how it stands afterwards."""
    deployment = client.read_deployment_by_name(f"{flow.name}/{name}")
    made = client.create_flow_run_from_deployment(
        deployment.id, parameters=dict(parameters), state=Pending()
    )
    with contextlib.suppress(Pause):
        run_flow_sync(flow, made, flow.validate_parameters(made.parameters), return_type="state")
    state = client.read_flow_run(made.id).state
    assert state is not None
    return made.id, state


@contextlib.contextmanager
def failing(folder: Path, number: int) -> Iterator[None]:
    """The system answers whoever lists this folder so."""
    scandir = os.scandir

    def refuse(path: Any = ".") -> Any:
        if str(path).startswith(str(folder)):
            raise OSError(number, os.strerror(number), str(path))
        return scandir(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        yield


def test_an_outage_is_told_when_it_begins_and_when_its_reason_changes(
    client: SyncPrefectClient, root: Path, inbox: Inbox
) -> None:
    recipe = check_file(root / "told.toml").recipe.model_dump(mode="json", exclude_none=True)
    clips, aside = root / "clips", root / "unmounted"
    store = root / "home" / "store"

    def look() -> str | None:
        _, state = run(client, watch, "told", {"recipe": recipe, "settle_seconds": 0})
        return state.name

    for name in ("first", "second"):
        (clips / f"{name}.mp4").write_bytes(b"a clip")
    assert look() == "Completed"
    clips.rename(aside)
    assert [look() for _ in range(2)] == ["Failed", STILL_FAILING]
    (entry,) = store.glob("arrivals/*/*.json")
    whole = entry.read_text()
    entry.write_text("damaged")
    assert look() == "Failed"  # for another reason
    entry.write_text(whole)
    assert look() == STILL_FAILING  # as it did before, and never ended well since
    aside.rename(clips)
    assert look() == "Completed"
    clips.rename(aside)
    assert look() == "Failed"  # another outage
    aside.rename(clips)
    with failing(clips, errno.ESTALE):  # a mount that is away
        assert look() == "Failed"
    with failing(clips, errno.EUCLEAN):  # a disk that is damaged
        assert [look() for _ in range(2)] == ["Failed", STILL_FAILING]
    told = " ".join(
        body for _, body in inbox.holds(5, "watch ")
    )  # the server may send them in any order
    assert (told.count("no videos any more"), told.count("cannot be read")) == (2, 1)
    assert (told.count("Stale file handle"), told.count("needs cleaning")) == (1, 1)


def test_a_run_that_fails_as_before_is_not_called_silent(rows: Desired) -> None:
    (silent,) = (row for row in rows.automations if row.name == "cogvx: silent runs")
    assert f"prefect.flow-run.{STILL_FAILING}" in silent.trigger["expect"]


def test_of_each_question_people_are_told_once_with_verdict_and_page(
    client: SyncPrefectClient, root: Path, inbox: Inbox, nano_base: Path, world_clips: Path
) -> None:
    bench = registered(root, "asked", base=nano_base, clips=world_clips, auto_promote=False)
    keep_verdict(bench, SAME)
    recipe = bench.recipe.model_dump(mode="json", exclude_none=True)
    asks, state = run(client, promote, "cpu", {"recipe": recipe})
    assert state.name == "Suspended"
    ((subject, body),) = inbox.holds(1, "asked")
    assert subject == "asked: HOLD, approve or reject"
    assert f"{PAGES}/runs/flow-run/{asks}" in body
    assert "asked on" in body  # the run's own name
    # another run does not ask the same again, and nobody is told of it
    _, state = run(client, promote, "cpu", {"recipe": recipe})
    assert state.name == "Completed"
    inbox.holds(1, "asked")
