"""A person is asked on a real Prefect server, by a real worker, and answers, refuses or stays away.

All questions are asked at once, before the first test, so that their processes overlap.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_sync
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending

from flows.promote import promote
from tasks.clients.registry import CHAMPION
from tasks.documents import PromoteReport
from tasks.evaluation.promote import promote_adapter
from tasks.settings import settings
from tasks.training.register import find_unchanged, open_registry
from tasks.workbench import Workbench
from tests.fixtures.deployed import PARENT_POOL, deploy_beside
from tests.fixtures.judged import BETTER, SAME, keep_verdict, registered, version_of
from tests.fixtures.servers import running

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Asked:
    """A judged version and the flow run that asks about it."""

    bench: Workbench
    run: UUID
    told: PromoteReport | None = None

    @property
    def tags(self) -> Mapping[str, str]:
        return version_of(self.bench).tags

    @property
    def champion(self) -> int | None:
        return open_registry(self.bench).aliases(self.bench.recipe.name).get(CHAMPION)


@pytest.fixture(scope="module")
def client(prefect_url: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: prefect_url}), get_client(sync_client=True) as found:
        yield found


@pytest.fixture(scope="module")
def deployment(client: SyncPrefectClient) -> str:
    return deploy_beside(client, promote, pool=PARENT_POOL)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, deployment: str) -> Iterator[Path]:
    """One home for the module; every question is about a model of its own."""
    root = tmp_path_factory.mktemp("approval")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGVX_HOME", str(root / "home"))
        patch.setenv("COGVX_PROMOTE_DEPLOYMENT", deployment)
        settings.cache_clear()
        yield root
    settings.cache_clear()


@pytest.fixture(scope="module")
def worker(home: Path, prefect_url: str, deployment: str) -> Iterator[int]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("COGVX_")},
        "COGVX_HOME": str(home / "home"),
        "PREFECT_API_URL": prefect_url,
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = ["env", "-C", str(home), sys.executable, "-m", "prefect", "worker", "start"]
    with running([*command, "--pool", PARENT_POOL], home / "log", environment) as process:
        yield process.pid


def judged(home: Path, name: str, base: Path, clips: Path, losses: tuple[float, ...]) -> Workbench:
    """A registered adapter with a verdict on it, by a recipe that leaves the rest to a person."""
    bench = registered(home, name, base=base, clips=clips, auto_promote=False)
    keep_verdict(bench, losses)
    return bench


@pytest.fixture(scope="module")
def questions(
    home: Path,
    worker: int,
    client: SyncPrefectClient,
    deployment: str,
    nano_base: Path,
    world_clips: Path,
) -> dict[str, Asked]:
    """One to approve in spite of a HOLD, one to reject, and one that nobody answers."""
    found = client.read_deployment_by_name(deployment)

    def asked(name: str, hours: float) -> Asked:
        bench = judged(home, name, nano_base, world_clips, BETTER)
        recipe = bench.recipe.model_dump(mode="json")
        parameters = {"recipe": recipe, "hours": hours}
        return Asked(
            bench, client.create_flow_run_from_deployment(found.id, parameters=parameters).id
        )

    late, refused = asked("late", 2 / 3600), asked("refused", 1)
    bench = judged(home, "handed-over", nano_base, world_clips, SAME)
    told = promote(bench.recipe)
    run = UUID(told.reason.rpartition("/")[2].split(";")[0])
    return {"late": late, "refused": refused, "handed over": Asked(bench, run, told)}


def wait_for(
    client: SyncPrefectClient, run: UUID, is_so: Callable[[FlowRun], bool], log: Path
) -> FlowRun:
    until = time.monotonic() + 300
    while True:
        found = client.read_flow_run(run)
        if is_so(found):
            return found
        assert time.monotonic() < until, f"{found.state}\n{log.read_text()[-3000:]}"
        time.sleep(0.3)


def answer(
    client: SyncPrefectClient, asked: Asked, log: Path, decision: str, reason: str
) -> FlowRun:
    """Fill in the form when it is there, and wait until the run has ended."""
    wait_for(client, asked.run, lambda run: bool(run.state and run.state.is_paused()), log)
    form = {"decision": decision, "reason": reason, "name": "Ann"}
    for wrong in ({"reason": " "}, {"decision": "perhaps"}, {"name": ""}):
        refused = client.resume_flow_run(asked.run, run_input={**form, **wrong})
        assert refused.status == SetStateStatus.REJECT
    given = client.resume_flow_run(asked.run, run_input=form)
    assert given.status == SetStateStatus.ACCEPT, given.details
    return wait_for(client, asked.run, lambda run: bool(run.state and run.state.is_final()), log)


def test_an_answer_to_an_earlier_judgement_changes_nothing(
    home: Path, client: SyncPrefectClient, nano_base: Path, world_clips: Path
) -> None:
    bench = judged(home, "judged-again", nano_base, world_clips, BETTER)
    recipe = {"recipe": bench.recipe.model_dump(mode="json")}
    here = client.create_deployment(client.create_flow(promote), "here")  # of which no worker knows
    run = client.create_flow_run_from_deployment(here, parameters=recipe, state=Pending()).id
    asked = Asked(bench, run)

    def go_on() -> str | None:
        with contextlib.suppress(Pause):
            run_flow_sync(promote, client.read_flow_run(run), {"recipe": bench.recipe})
        state = client.read_flow_run(run).state
        return state and state.name

    form = {"decision": "approve", "reason": "calm hands", "name": "Ann"}
    assert go_on() == "Suspended"
    keep_verdict(bench, SAME)
    client.resume_flow_run(run, run_input=form)
    assert go_on() == "Suspended"  # it asks about the new verdict
    assert (asked.champion, asked.tags["cogvx.review"]) == (None, "asked")
    client.resume_flow_run(run, run_input=form)
    assert go_on() == "Completed"
    assert (asked.champion, asked.tags["cogvx.override"]) == (1, "HOLD")


def test_where_nobody_answers_a_deployments_run_is_asked_once(
    questions: dict[str, Asked], client: SyncPrefectClient
) -> None:
    asked = questions["handed over"]
    assert asked.told is not None
    assert not asked.told.promoted
    assert "stays challenger until a person approves in Prefect: http" in asked.told.reason
    assert client.read_flow_run(asked.run).parent_task_run_id is None  # or it could not wait
    again = promote(asked.bench.recipe)
    assert str(asked.run) in again.reason


def test_a_person_overrides_a_hold_and_that_is_written_down(
    questions: dict[str, Asked], client: SyncPrefectClient, home: Path
) -> None:
    asked = questions["handed over"]
    ended = answer(client, asked, home / "log", "approve", "calm hands")
    assert ended.state_name == "Completed", ended.state
    assert asked.champion == 1
    tags = asked.tags
    assert (tags["cogvx.verdict"], tags["cogvx.override"]) == ("HOLD", "HOLD")
    assert (tags["cogvx.review"], tags["cogvx.review_by"]) == ("approved", "Ann")
    assert tags["cogvx.approval"] == "calm hands"
    (move,) = (m for m in open_registry(asked.bench).history("handed-over") if m.act == "promoted")
    assert (move.who, move.why, move.overruled) == ("Ann", "calm hands", True)
    assert move.flow_run == str(asked.run)
    assert "champion already" in promote(asked.bench.recipe).reason


def test_the_run_that_asks_shows_table_verdict_and_next_step(
    questions: dict[str, Asked], client: SyncPrefectClient, home: Path
) -> None:
    run = questions["refused"].run
    wait_for(client, run, lambda found: bool(found.state and found.state.is_paused()), home / "log")
    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    shown = {item.key: item for item in client.read_artifacts(artifact_filter=mine)}
    rows = json.loads(str(shown["metrics-refused"].data))
    assert rows[0]["metric"] == "heldout_loss"
    assert {type(cell) for row in rows for cell in row.values()} == {str}
    page = str(shown["verdict-refused"].data)
    assert page.startswith("# PROMOTE: refused v1")
    assert "| heldout\\_loss | better | +" in page
    assert "Reject, or give no answer until" in page


def test_what_a_person_rejects_stays_challenger_and_is_not_asked_again(
    questions: dict[str, Asked], client: SyncPrefectClient, home: Path
) -> None:
    asked = questions["refused"]
    ended = answer(client, asked, home / "log", "reject", "the second clip\nflickers")
    assert ended.state_name == "Completed", ended.state
    assert asked.champion is None
    assert asked.tags["cogvx.review"] == "rejected"
    assert asked.tags["cogvx.review_why"] == "the second clip\nflickers"
    again = promote_adapter.fn(asked.bench)
    assert not again.needs_person
    assert "rejected by Ann: the second clip" in again.reason
    unchanged = find_unchanged.fn(asked.bench, asked.bench.latest_manifest())
    assert unchanged is not None
    assert unchanged.review == "rejected by Ann: the second clip\nflickers"
    # a person at a terminal may change their mind
    assert promote_adapter.fn(asked.bench, "seen it again", "Ben").promoted
    assert asked.tags["cogvx.review_by"] == "Ben"


def test_what_nobody_answers_stays_challenger_and_says_so(
    questions: dict[str, Asked], client: SyncPrefectClient, home: Path
) -> None:
    asked = questions["late"]
    ended = wait_for(
        client, asked.run, lambda run: bool(run.state and run.state.is_final()), home / "log"
    )
    assert ended.state is not None
    assert (ended.state.name, ended.state.message) == ("Cancelled", "nobody answered in time")
    until = time.monotonic() + 60
    while asked.tags["cogvx.review"] != "unanswered":
        assert time.monotonic() < until
        time.sleep(0.3)
    assert asked.champion is None
    again = promote(asked.bench.recipe)
    assert "stays challenger: nobody answered until" in again.reason
