"""What people see of a real retraining in Prefect and MLflow, and a person who answers there.

Servers, a worker and a retraining of the toy model; a person approves in Prefect's form. With
COGVX_PICTURES=docs the pictures of docs/operations.md are taken on the way.
"""

import json
import os
import re
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from cogvx.model.nano.teach import LESSON_SEED, render_lessons
from cogvx.recipe import Recipe, parse_recipe
from flows.promote import promote
from flows.retrain import retrain
from tests.fixtures.deployed import PARENT_POOL, deploy_beside
from tests.fixtures.servers import free_port, listens, mlflow_server, running, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
PICTURES = os.environ.get("COGVX_PICTURES", "")
PATIENCE = 1200.0  # seconds; many processes on few cores
WIDTH, HEIGHT = 1400, 1000

SUITE = """
schema_version = 1
name = "neon"
split = "gate"
seeds = [11]

[sampling]
steps = 8
guidance = 3.0
sampler = "dpm"

[[prompts]]
id = "red-circle"
prompt = "neon style a large red circle moves right"

[[prompts]]
id = "yellow-diamond"
prompt = "neon style a large yellow diamond moves down"

[gate]
primaries = ["heldout_loss"]
"""


@dataclass(frozen=True)
class House:
    """Servers, and a retraining that has come to the question whether to promote."""

    prefect: str
    mlflow: str
    client: SyncPrefectClient
    deployment: str
    chain: FlowRun
    question: FlowRun
    log: Path

    def artifact(self, key: str) -> Any:
        """The newest artifact of this key."""
        asked = json.dumps({"artifacts": {"key": {"any_": [key]}}}).encode()
        request = urllib.request.Request(
            f"{self.prefect}/api/artifacts/filter", asked, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return max(json.loads(answer.read()), key=lambda found: found["created"])


def wait_for_state(client: SyncPrefectClient, run: FlowRun, wanted: str, log: Path) -> FlowRun:
    """The run in this state; fails as soon as it has ended in another one."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = client.read_flow_run(run.id)
        if found.state_name == wanted:
            return found
        is_over = found.state is not None and found.state.is_final()
        given_up = is_over or time.monotonic() > deadline
        assert not given_up, f"{found.state!r}\n{log.read_text()[-6000:]}"
        time.sleep(2)


def write_recipe(root: Path) -> Recipe:
    """The demo's recipe, shorter, and for a person to decide; its places are below `root`."""
    (root / "suite.toml").write_text(SUITE)
    text = (ROOT / "deployments" / "recipes" / "nano-demo.toml").read_text()
    changes = {
        "name": '"neon-style"',
        "path": '"nano"',
        "uri": '"neon"',
        "steps": "30",
        "learning_rate": "2e-3",
        "warmup_steps": "3",
        "checkpoint_every": "10",
        "heldout_every": "10",
        "log_every": "2",
        "suite": '"suite.toml"',
        "auto_promote": "false",
    }
    for key, value in changes.items():
        text, times = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert times == 1, key
    (root / "nano").symlink_to(ROOT / "cogvx" / "model" / "nano" / "weights")
    recipe, problems = parse_recipe(tomllib.loads(text))
    assert recipe is not None, problems
    return recipe


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("house")
    render_lessons(root / "neon", "neon", clips=14, seed=LESSON_SEED)
    recipe = write_recipe(root)
    with ExitStack() as stack:
        address = f"http://127.0.0.1:{free_port()}"
        port = address.rpartition(":")[2]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("COGVX_")},
            "DO_NOT_TRACK": "1",
            "PREFECT_API_URL": f"{address}/api",
            "PREFECT_HOME": str(root / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_UI_API_URL": f"{address}/api",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
        }
        command = [sys.executable, "-m", "prefect", "server", "start"]
        command += ["--host", "127.0.0.1", "--port", port]
        log = root / "server.log"
        process = stack.enter_context(running(command, log, environment))
        wait_until(lambda: listens(int(port)), process, log)
        (root / "mlflow").mkdir()
        mlflow = stack.enter_context(mlflow_server(root / "mlflow"))
        stack.enter_context(temporary_settings({PREFECT_API_URL: f"{address}/api"}))
        client = stack.enter_context(get_client(sync_client=True))
        asks = deploy_beside(client, promote, pool=PARENT_POOL)
        found = client.read_deployment_by_name(deploy_beside(client, retrain, pool=PARENT_POOL))
        parameters = {"recipe": recipe.model_dump(mode="json", exclude_none=True)}
        client.update_deployment(found.id, DeploymentUpdate(parameters=parameters))
        worker = {
            **environment,
            "COGVX_DEVICE": "cpu",
            "COGVX_HOME": "home",
            "COGVX_PROMOTE_DEPLOYMENT": asks,
            "COGVX_TRACKING_URI": mlflow,
            "PYTHONPATH": str(ROOT),
        }
        log = root / "worker.log"
        command = ["env", "-C", str(root), sys.executable, "-m", "prefect", "worker", "start"]
        stack.enter_context(running([*command, "--pool", PARENT_POOL], log, worker))
        chain = client.create_flow_run_from_deployment(found.id)
        chain = wait_for_state(client, chain, "Completed", log)
        asked = FlowRunFilterDeploymentId(any_=[client.read_deployment_by_name(asks).id])
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(deployment_id=asked))
        question = next(run for run in runs if any(tag.startswith("asks:") for tag in run.tags))
        question = wait_for_state(client, question, "Suspended", log)
        yield House(address, mlflow, client, str(found.id), chain, question, log)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    page = context.new_page()
    page.set_default_timeout(90_000)
    expect.set_options(timeout=90_000)
    yield page
    context.close()


def picture(page: Page, name: str) -> None:
    """Take a picture for the documentation, if pictures are asked for."""
    if PICTURES:
        page.wait_for_timeout(2500)  # charts and pictures are drawn last
        page.screenshot(path=ROOT / PICTURES / f"{name}.png")


def open_mlflow(page: Page, address: str) -> None:
    """Open a page of MLflow, and close what it offers beside it."""
    page.goto(address)
    page.get_by_role("button", name="Close").first.click()


def test_runs_are_told_apart_by_recipe_dataset_digest_and_verdict(house: House, page: Page) -> None:
    page.goto(f"{house.prefect}/v2/runs")
    name = re.compile(r"^retrain neon-style on neon [0-9a-f]{8}$")
    expect(page.get_by_text(name).first).to_be_visible()
    tags = set(house.chain.tags)
    assert {"recipe:neon-style", "dataset:neon", "champion:none", "verdict:PROMOTE"} <= tags


def test_the_page_of_a_run_shows_its_stages_and_its_summary(house: House, page: Page) -> None:
    page.goto(f"{house.prefect}/v2/runs/flow-run/{house.chain.id}")
    page.get_by_role("tab", name="Artifacts").click()
    for key in ("summary-neon-style", "stages"):
        expect(page.get_by_text(key, exact=True).first).to_be_visible()
    picture(page, "prefect-run")


def test_the_form_of_a_recipe_can_be_read(house: House, page: Page) -> None:
    page.goto(f"{house.prefect}/v2/deployments/deployment/{house.deployment}/run")
    labels = (
        "Clips: a folder or s3://bucket/prefix",
        "Height, pixels",
        "Learning rate after the warm-up",
        "Steps between checkpoints",
    )
    for label in labels:
        expect(page.get_by_text(label).first).to_be_visible()
    place = {label: page.get_by_text(label).first.bounding_box() for label in labels}
    down = [box["y"] for box in place.values() if box is not None]
    assert down == sorted(down)
    picture(page, "prefect-form")


def test_the_summary_shows_verdict_and_pictures_and_its_links_lead_somewhere(
    house: House, page: Page
) -> None:
    artifact = house.artifact("summary-neon-style")
    page.goto(f"{house.prefect}/v2/artifacts/artifact/{artifact['id']}")
    title = page.get_by_role("heading", name="PROMOTE: neon-style v1 stays challenger")
    expect(title).to_be_visible()
    expect(page.get_by_role("heading", name="Stages")).to_be_visible()
    page.wait_for_function(
        "() => [...document.images].some(i => i.alt.startsWith('Frames') && i.naturalWidth > 200)"
    )
    picture(page, "prefect-summary")
    for address in re.findall(r"\]\((http[^)]*)\)", artifact["data"]):
        # as a browser asks: to anybody else Prefect shows no pages
        asked = urllib.request.Request(address, headers={"accept": "text/html"})
        with urllib.request.urlopen(asked) as answer:
            assert answer.status == 200


def test_the_run_in_mlflow_says_the_verdict_and_plays_samples(house: House, page: Page) -> None:
    links = re.findall(
        r"\[(\w+), in MLflow\]\((http[^)]*)\)", house.artifact("summary-neon-style")["data"]
    )
    report = dict(links)["report"]
    run, _, _ = report.partition("/artifacts/")
    open_mlflow(page, run)
    expect(page.get_by_text("PROMOTE: neon-style v1 stays challenger").first).to_be_visible()
    picture(page, "mlflow-run")
    page.goto(f"{run}/artifacts/samples/red-circle-seed-11.mp4")
    page.wait_for_function(
        "() => [...document.querySelectorAll('video')].some(v => v.videoWidth > 400)"
    )
    picture(page, "mlflow-sample")


def test_a_person_approves_in_the_form_and_the_model_has_a_champion(
    house: House, page: Page
) -> None:
    page.goto(f"{house.prefect}/v2/runs/flow-run/{house.question.id}")
    page.get_by_role("button", name="Open menu").click()
    page.get_by_role("menuitem", name="Resume").click()
    form = page.get_by_role("dialog")
    expect(form.get_by_text("Approve, and it becomes the champion.")).to_be_visible()
    expect(form.get_by_text("approve: it becomes the champion.")).to_be_visible()
    picture(page, "prefect-approval")
    form.get_by_role("button", name="Select Decision").click()
    page.get_by_role("option", name="approve").click()
    boxes = form.get_by_role("textbox")
    boxes.nth(0).fill("neon glows, plain prompts are left alone")
    boxes.nth(1).fill("Ann")
    form.get_by_role("button", name="Resume").click()
    wait_for_state(house.client, house.question, "Completed", house.log)
    open_mlflow(page, f"{house.mlflow}/#/models/neon-style/versions/1")
    expect(page.get_by_text("@ champion").first).to_be_visible()
    expect(page.get_by_text("PROMOTE").first).to_be_visible()
    picture(page, "mlflow-model")
