"""`cogvx up` runs everything on one machine, says what runs, and leaves nothing behind.

Most tests tell one story: up in the background, looked at, hurt, used, and taken down.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prefect import Flow
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.up.state import Desk, UpState
from tasks.clients.processes import Mark
from tasks.clients.servers import answers
from tasks.clients.supervise import descendants
from tests.e2e.conftest import Place, make_place, write_recipe
from tests.e2e.up_flows import household, mishap, nap
from tests.fixtures.deployed import deploy_beside
from tests.fixtures.servers import free_port

SECONDS = 300.0  # on a machine that does much else; alone, most things take five
CATALOG = """
[pools.cpu]

[pools.gpu-train]
concurrency = 1

[pools.gpu-cache]
type = "docker"
image = "cogvx"

[pools.gpu-eval]
type = "docker"
image = "cogvx"

[[recipes]]
file = "recipe.toml"
cron = "0 3 * * *"

[notify]
block = "slack-webhook/ops"
"""


@dataclass
class Home:
    """A place with a catalog, the ports of its own, and what was told there."""

    place: Place
    prefect: str = field(default_factory=lambda: str(free_port()))
    mlflow: str = field(default_factory=lambda: str(free_port()))

    @property
    def up(self) -> list[str]:
        return [*self.plain_up, "--catalog", str(self.catalog)]

    @property
    def plain_up(self) -> list[str]:
        return ["up", "--prefect-port", self.prefect, "--mlflow-port", self.mlflow]

    @property
    def catalog(self) -> Path:
        return self.place.root / "catalog.toml"

    @property
    def desk(self) -> Desk:
        return Desk(self.place.home)

    @property
    def state(self) -> UpState:
        state = self.desk.read()
        assert state is not None
        return state

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "deployments.cli", *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            cwd=self.place.root,
            env=self.place.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def start_up(self, log: Path) -> tuple[subprocess.Popen[bytes], Mark]:
        """A plain `cogvx up` beside this test, which ends it; what it says is in the log."""
        with log.open("w") as output:
            process = subprocess.Popen(
                self.command(*self.plain_up),
                cwd=self.place.root,
                env=self.place.environment,
                stdin=subprocess.DEVNULL,
                stderr=output,
            )
        keeper = Mark.of(process.pid)
        assert keeper is not None
        return process, keeper

    def deploy(self, flow: Flow[..., None], pool: str) -> str:
        """Put a flow of these tests beside the catalog."""
        with self.api(), get_client(sync_client=True) as client:
            return deploy_beside(client, flow, pool=pool)

    def api(self):  # type: ignore[no-untyped-def]
        return temporary_settings({PREFECT_API_URL: f"{self.state.prefect}/api"})


def make_home(root: Path) -> Home:
    root.mkdir(exist_ok=True)
    recipe = write_recipe(root / "recipe.toml", clips="clips", base=Path("base"))
    (root / "catalog.toml").write_text(CATALOG)
    return Home(make_place(root, recipe, OMP_NUM_THREADS="1", PREFECT_WORKER_QUERY_SECONDS="1"))


def wait_for(holds: Callable[[], bool], what: str, log: Path, keeper: Mark) -> None:
    until = time.monotonic() + SECONDS
    while not holds():
        if time.monotonic() > until or not keeper.lives:
            words = log.read_text() if log.is_file() else ""
            pytest.fail(f"not {what}:\n{words[-3000:]}")
        time.sleep(0.2)


def all_below(keeper: int) -> list[Mark]:
    return [mark for pid in descendants(keeper) if (mark := Mark.of(pid))]


def require_gone(marks: list[Mark]) -> None:
    until = time.monotonic() + 60
    while left := [mark for mark in marks if mark.lives]:
        assert time.monotonic() < until, f"{left} outlived their command"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Up in the background; what `up` said is in the file `said`."""
    home = make_home(tmp_path_factory.mktemp("up"))
    try:
        done = home.run(*home.up, "--detach")
        (home.place.root / "said").write_text(done.stderr + done.stdout)
        assert done.returncode == 0, done.stderr[-4000:]
        yield home
    finally:
        home.run("down")


def test_it_comes_back_when_all_is_well_and_says_where(home: Home) -> None:
    said = (home.place.root / "said").read_text()
    assert f"http://127.0.0.1:{home.prefect}" in said
    assert f"http://127.0.0.1:{home.mlflow}" in said
    assert "+ deployment  retrain/tiny" in said
    assert "pool gpu-eval is of type docker and gets no worker here" in said
    assert "  next      " in said
    assert "`cogvx down` stops all of it" in said  # its last line: nothing of it is lost
    for url in (home.state.prefect, home.state.mlflow):
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.status == 200


def test_a_block_that_only_people_can_make_is_waited_for(home: Home) -> None:
    said = (home.place.root / "said").read_text()
    page = f"http://127.0.0.1:{home.prefect}/blocks/catalog/slack-webhook/create"
    assert f'notify.block = "slack-webhook/ops" is no block of this server; make it at {page}' in (
        said
    )
    catalog = str(home.place.root / "catalog.toml")
    home.place.environment["PREFECT_API_URL"] = f"{home.state.prefect}/api"
    with home.api():
        url = "https://hooks.slack.com/services/T/B/x"
        SlackWebhook(url=url).save("ops")  # type: ignore[arg-type]
    try:
        done = home.run("deploy", "--apply", "--catalog", catalog)
        assert done.returncode == 0, done.stderr
    finally:
        del home.place.environment["PREFECT_API_URL"]
    assert "+ automation  cogvx: tell of bad ends" in done.stdout


def test_a_second_up_finds_the_first(home: Home) -> None:
    keeper = home.state.keeper
    done = home.run("up")
    assert done.returncode == 0, done.stderr
    assert f"http://127.0.0.1:{home.prefect}" in done.stdout
    assert "all of it is well" in done.stdout
    assert home.state.keeper == keeper


def test_an_up_of_another_home_is_told_who_has_its_ports(home: Home, tmp_path: Path) -> None:
    other = make_home(tmp_path / "other")
    other.prefect, other.mlflow = home.prefect, home.mlflow
    done = other.run(*other.up)
    assert done.returncode == 2
    for option in ("--prefect-port", "--mlflow-port"):
        assert option in done.stderr
    assert f"is taken by `cogvx up` of {home.place.home}" in done.stderr
    assert other.desk.read() is None
    assert home.state.is_kept


def test_status_says_what_runs(home: Home) -> None:
    done = home.run("status")
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("polls cpu", "polls gpu-train", "retrain/tiny", str(home.desk.folder)):
        assert words in done.stdout


def test_a_worker_that_is_killed_comes_back(home: Home) -> None:
    def worker() -> tuple[int, Mark]:
        (found,) = [one for one in home.state.services if one.pool == "gpu-train"]
        return found.starts, found.processes[-1]

    _, mark = worker()
    os.kill(mark.pid, signal.SIGKILL)
    came = lambda: worker()[0] == 2 and worker()[1].lives and len(home.state.left) == 8  # noqa: E731
    wait_for(came, "started again", home.desk.output, home.state.keeper)
    assert "the worker of gpu-train ended with code 137" in home.desk.output.read_text()


def test_trigger_follows_a_run_and_its_children(home: Home) -> None:
    home.deploy(household, "cpu")
    done = home.run("trigger", "household/cpu", "--wait")
    assert done.returncode == 0, done.stderr
    assert f"http://127.0.0.1:{home.prefect}/runs/flow-run/" in done.stdout
    assert "nap: Completed" in done.stderr
    home.deploy(mishap, "cpu")
    done = home.run("trigger", "mishap/cpu", "--wait")
    assert done.returncode == 1, done.stderr
    assert "mishap: Failed, Flow run encountered an exception: ValueError: it was to fail" in (
        done.stderr
    )


def test_trigger_names_what_there_is(home: Home) -> None:
    done = home.run("trigger", "tinny")
    assert done.returncode == 2
    assert 'no deployment "retrain/tinny"' in done.stderr
    assert "retrain/tiny" in done.stderr


def test_down_lets_runs_save_before_anything_is_gone(home: Home) -> None:
    name = home.deploy(nap, "gpu-train")
    with home.api(), get_client(sync_client=True) as client:
        client.create_flow_run_from_deployment(
            client.read_deployment_by_name(name).id,
            parameters={"seconds": 600.0, "note": str(home.place.root)},
        )
    log, keeper = home.desk.log("worker-gpu-train"), home.state.keeper
    wait_for((home.place.root / "begun").exists, "napping", log, keeper)
    below = all_below(keeper.pid)
    done = home.run("down")
    assert done.returncode == 0, done.stderr
    require_gone([keeper, *below])
    assert (home.place.root / "saved").exists()
    with sqlite3.connect(home.place.home / "prefect" / "prefect.db") as database:
        query = "select state_name from flow_run where name = 'nap' and deployment_id is not null"
        assert database.execute(query).fetchall() == [("Crashed",)]
    assert not answers(f"http://127.0.0.1:{home.mlflow}/health")
    assert home.run("status").returncode == 3
    assert not (home.place.root / "mlruns").exists()


@pytest.fixture(scope="module")
def left(home: Home) -> Home:
    """The same home, whose databases are there already, with nothing up."""
    home.run("down")
    return home


@pytest.mark.parametrize(
    "moment",
    [
        "starting MLflow's server",
        pytest.param("starting the worker of gpu-train", marks=pytest.mark.slow),
    ],
)
def test_what_was_killed_leaves_nothing_and_is_cleared_up(left: Home, moment: str) -> None:
    log = left.place.root / "killed.log"
    process, keeper = left.start_up(log)
    below: list[Mark] = []

    def started() -> bool:
        below[:] = all_below(process.pid)
        return moment in log.read_text() and len(below) >= 4

    wait_for(started, moment, log, keeper)
    process.kill()
    process.wait()
    done = left.run("status")
    assert done.returncode == 3
    assert "was killed" in done.stdout
    assert f"`cogvx up --catalog {left.catalog}` starts again" in done.stdout
    require_gone(below)
    assert left.run("down").returncode == 0
    assert "nothing is up" in left.run("status").stdout


def test_asked_to_stop_while_it_starts_it_stops(left: Home) -> None:
    log = left.place.root / "asked.log"
    process, keeper = left.start_up(log)
    wait_for(lambda: "starting MLflow" in log.read_text(), "starting", log, keeper)
    assert left.state.catalog == left.catalog  # that of the last one here, though nobody named it
    assert f"catalog   {left.catalog}, as the last" in log.read_text()
    below = all_below(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 0, log.read_text()
    assert "all stopped" in log.read_text()
    require_gone(below)
    assert left.desk.read() is None


@pytest.mark.slow
def test_a_pool_whose_type_changed_waits_and_the_rest_is_up(left: Home) -> None:
    catalog = left.place.root / "catalog.toml"
    before = catalog.read_text()
    docker = '[pools.gpu-eval]\ntype = "docker"\nimage = "cogvx"'
    assert docker in before
    catalog.write_text(before.replace(docker, "[pools.gpu-eval]"))
    pool = f"http://127.0.0.1:{left.prefect}/work-pools/work-pool/gpu-eval"
    try:
        done = left.run(*left.up, "--detach")
        assert done.returncode == 0, done.stderr[-4000:]
        assert 'pools.gpu-eval.type = "process" is "docker" at the server' in done.stderr
        assert f"delete it at {pool}; then" in done.stderr
        assert "pool gpu-eval is of type docker at the server and gets no worker" in done.stderr
        assert "worker-gpu-train" in {one.name for one in left.state.services}
        assert "worker-gpu-eval" not in {one.name for one in left.state.services}
        with left.api(), get_client(sync_client=True) as client:
            client.delete_work_pool("gpu-eval")
        assert left.run("down").returncode == 0
        done = left.run(*left.up, "--detach")
        assert done.returncode == 0, done.stderr[-4000:]
        assert "the worker of gpu-eval polls" in done.stderr
        assert left.run("status").returncode == 0
    finally:
        left.run("down")
        catalog.write_text(before)


@pytest.mark.slow
def test_an_s3_server_that_dies_comes_back_empty_and_that_is_said(tmp_path: Path) -> None:
    home = make_home(tmp_path / "s3")
    port = free_port()
    try:
        done = home.run(*home.up, "--detach", "--s3", "--s3-port", str(port))
        assert done.returncode == 0, done.stderr
        assert "KEEPS EVERYTHING IN MEMORY" in done.stderr
        environment = home.run("status", "--env").stdout
        assert f"export COGVX_S3_ENDPOINT_URL=http://127.0.0.1:{port}\n" in environment
        assert "export COGVX_STORE_URL=s3://cogvx/store\n" in environment
        bucket = f"http://127.0.0.1:{port}/cogvx"
        assert answers(bucket)
        (server,) = [one for one in home.state.services if one.name == "s3"]
        os.kill(server.processes[-1].pid, signal.SIGKILL)
        said = lambda: "EVERYTHING IT KEPT IS GONE" in home.desk.output.read_text()  # noqa: E731
        wait_for(said, "said", home.desk.output, home.state.keeper)
        assert answers(bucket)
    finally:
        assert home.run("down").returncode == 0
