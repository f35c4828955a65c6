"""New clips start one retraining on a real Prefect server, whoever finds them and is killed where.

The catalog's own automation decides; no worker is there, so runs that it starts only wait.
"""

import contextvars
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from cogvx.check import check_file
from cogvx.data.arrivals import Announcements, Arrival, Listing
from cogvx.data.sources import list_files
from cogvx.errors import DataError
from cogvx.recipe import Recipe
from cogvx.store import LocalStore
from deployments.apply import apply_catalog
from deployments.catalog import load_catalog
from deployments.rows import desired
from tasks.caching.arrivals import announce, dataset_resource, event_id
from tasks.caching.watch import watch_clips
from tasks.clients.s3 import S3Store
from tasks.documents import WatchReport
from tasks.settings import settings
from tests.e2e.conftest import write_recipe
from tests.fixtures.recipes import POOLS
from tests.fixtures.s3 import BUCKET, S3Server
from tests.fixtures.servers import free_port, listens, running, wait_until
from tests.fixtures.start import ROOT

CATALOG = f"""{POOLS}
[[recipes]]
file = "folder.toml"
on_arrival = true

[[recipes]]
file = "bucket.toml"
on_arrival = true

[watch]
every = 86400
"""
PREFIX = f"s3://{BUCKET}/arrivals/clips"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, nano_base: Path) -> Path:
    """The catalog, a recipe with clips in a folder, and one with clips in a bucket."""
    root = tmp_path_factory.mktemp("arrivals")
    (root / "clips").mkdir()
    write_recipe(root / "folder.toml", clips=str(root / "clips"), base=nano_base, name="folder")
    write_recipe(root / "bucket.toml", clips=PREFIX, base=nano_base, name="bucket")
    (root / "catalog.toml").write_text(CATALOG)
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[SyncPrefectClient]:
    """A server with the services that look at events, and the catalog deployed to it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = root / "server.log"
    with running(command, log, environment) as process:
        wait_until(lambda: listens(port), process, log)
        with (
            temporary_settings({PREFECT_API_URL: url}),
            get_client(sync_client=True) as found,
        ):
            apply_catalog(found, desired(load_catalog(root / "catalog.toml")))
            yield found


class Watched:
    """A dataset with its watcher, and the retrainings that were started for it."""

    def __init__(self, client: SyncPrefectClient, root: Path, name: str) -> None:
        self.client = client
        self.recipe: Recipe = check_file(root / f"{name}.toml").recipe
        self.clips = root / "clips"
        self.store = LocalStore(root / "home" / "store")
        name = f"{LocalStore(self.clips).url} as {dataset_resource(str(self.clips))}"
        self.announcements = Announcements(self.store, name)

    def put(self, name: str, data: bytes = b"a clip") -> None:
        (self.clips / f"{name}.mp4").write_bytes(data)
        (self.clips / f"{name}.txt").write_text(f"caption of {name}")

    def look(self, *, settle: float = 0.05, patience: float = 60) -> WatchReport:
        return watch_clips(self.recipe, settle_seconds=settle, patience_seconds=patience)

    def runs(self, flow: str = "retrain") -> list[FlowRun]:
        deployment = self.client.read_deployment_by_name(f"{flow}/{self.recipe.name}")
        mine = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))
        found = self.client.read_flow_runs(flow_run_filter=mine, limit=200)
        return [run for run in found if not run.auto_scheduled]

    def started(self, before: int) -> int:
        """How many retrainings were started since there were so many, once one was or never."""
        deadline = time.monotonic() + 30
        while len(self.runs()) == before and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.0)  # a second one would come within this
        return len(self.runs()) - before

    def find(self, *, seconds_ago: float) -> Arrival:
        """What a watcher leaves that found a change and was killed before it could announce it."""
        now = Listing.of(list_files(LocalStore(self.clips)))
        arrival = self.announcements.claim(self.announcements.newest(), now, settled=True)
        assert arrival is not None
        late = arrival.model_copy(update={"when": arrival.when - seconds_ago})
        key = self.announcements._key(arrival.seq)
        self.store.write(key, late.model_dump_json().encode())
        return late


@pytest.fixture(scope="module")
def home(root: Path, s3_server: S3Server) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGVX_HOME", str(root / "home"))
        for name, value in s3_server.environment("").items():
            if name != "COGVX_STORE_URL":
                patch.setenv(name, value)
        settings.cache_clear()
        yield
    settings.cache_clear()


@pytest.fixture(scope="module")
def watched(client: SyncPrefectClient, root: Path, home: None) -> Watched:
    found = Watched(client, root, "folder")
    assert found.look().state == "empty"
    found.put("first")
    assert found.look().state == "announced"
    assert found.started(0) == 1
    return found


def test_one_more_clip_starts_one_retraining_within_seconds(watched: Watched) -> None:
    before = len(watched.runs())
    watched.put("second")
    began = time.monotonic()
    report = watched.look()
    assert (report.state, report.added, report.files) == ("announced", 2, 4)
    assert watched.started(before) == 1
    print(f"from the look to the run: {time.monotonic() - began - 1:.1f} s")
    assert watched.look().state == "unchanged"
    assert len(watched.runs()) == before + 1


def test_the_event_says_what_changed(watched: Watched) -> None:
    watched.put("third")
    (watched.clips / "first.txt").write_text("another caption of the first")
    (watched.clips / "second.mp4").unlink()
    before = len(watched.runs())
    watched.look()
    assert watched.started(before) == 1
    newest = watched.announcements.newest()
    assert newest is not None
    counts = {"added": 2, "removed": 1, "changed": 1}
    told = {"uri": str(watched.clips), "listing": newest.listing, **counts}
    asked = {"filter": {"id": {"id": [str(event_id(newest))]}}}
    deadline = time.monotonic() + 60  # the server keeps events some time after it acts on them
    while not (
        found := watched.client.request("POST", "/events/filter", json=asked).json()["events"]
    ):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [event["payload"] for event in found] == [told]


def test_uploads_that_go_on_are_waited_for_and_announced_once(watched: Watched) -> None:
    before = len(watched.runs())
    path = watched.clips / "slow.mp4"
    path.write_bytes(b"")
    (watched.clips / ".hidden.mp4").write_bytes(b"half")

    def upload() -> None:
        for _ in range(8):
            time.sleep(0.15)
            with path.open("ab") as file:
                file.write(b"more")

    thread = threading.Thread(target=upload)
    thread.start()
    report = watched.look(settle=1.5)  # no pause of a busy machine is that long
    thread.join()
    assert (report.state, report.added) == ("announced", 1)
    newest = watched.announcements.newest()
    assert newest is not None
    assert newest.settled
    assert newest.files["slow.mp4"][0] == 32
    assert watched.started(before) == 1


def test_uploads_without_end_are_announced_when_the_patience_is_over(watched: Watched) -> None:
    before = len(watched.runs())
    (watched.clips / "endless.mp4").write_bytes(b"")
    ended = threading.Event()

    def upload() -> None:
        while not ended.wait(0.01):
            with (watched.clips / "endless.mp4").open("ab") as file:
                file.write(b"more")

    thread = threading.Thread(target=upload)
    thread.start()
    try:
        assert watched.look(settle=0.1, patience=0.5).state == "announced"
    finally:
        ended.set()
        thread.join()
    newest = watched.announcements.newest()
    assert newest is not None
    assert not newest.settled
    assert watched.started(before) == 1
    assert watched.look().state == "announced"  # of what came after that
    assert watched.started(before + 1) == 1


def test_of_watchers_that_race_one_announces(watched: Watched) -> None:
    before = len(watched.runs())
    watched.put("raced")
    with ThreadPoolExecutor(4) as racers:  # in the context that names the server
        looks = [
            racers.submit(contextvars.copy_context().run, watched.look, settle=0.3)
            for _ in range(4)
        ]
        states = [look.result().state for look in looks]
    assert states.count("announced") == 1
    assert set(states) <= {"announced", "announced elsewhere", "unchanged"}
    assert watched.started(before) == 1


@pytest.mark.parametrize("killed", ["before it told the server", "after it told the server"])
def test_a_watcher_that_was_killed_in_between_starts_one_retraining_all_the_same(
    watched: Watched, killed: str
) -> None:
    before = len(watched.runs())
    watched.put(f"killed {killed}")
    arrival = watched.find(seconds_ago=120)
    if killed.startswith("after"):
        announce(watched.recipe.dataset.uri, arrival)
        assert watched.started(before) == 1
    assert watched.look().state == "unchanged"
    assert watched.started(before) == 1
    assert watched.announcements.is_sent(arrival)


def test_what_another_watcher_found_a_moment_ago_is_left_to_it(watched: Watched) -> None:
    watched.put("fresh")
    arrival = watched.find(seconds_ago=0)
    assert watched.look().state == "unchanged"
    assert not watched.announcements.is_sent(arrival)
    watched.announcements.note_sent(arrival)


def test_clips_that_are_all_gone_are_an_error_and_no_arrival(watched: Watched) -> None:
    """A disk that is not mounted must not have everything retrained on nothing."""
    before = watched.announcements.newest()
    aside = watched.clips.rename(watched.clips.with_name("unmounted"))
    try:
        with pytest.raises(DataError, match="holds no videos any more"):
            watched.look()
    finally:
        aside.rename(watched.clips)
    assert watched.announcements.newest() == before


# A bucket that tells of its uploads


@pytest.fixture(scope="module")
def hook(client: SyncPrefectClient, root: Path) -> Iterator[str]:
    """The web hook as its own process; its address."""
    port = free_port()
    command = [sys.executable, str(ROOT / "infra" / "notify" / "notify.py")]
    command += ["--port", str(port), "--watch", f"{PREFIX}/=watch/bucket"]
    environment = {"PREFECT_API_URL": str(client.api_url), "COGVX_NOTIFY_TOKEN": "token"}
    log = root / "hook.log"
    with running(command, log, environment) as process:
        wait_until(lambda: listens(port), process, log)
        yield f"http://127.0.0.1:{port}/"


def aws(key: str) -> dict[str, object]:
    place = {"bucket": {"name": BUCKET}, "object": {"key": key, "size": 6}}
    record = {"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": place}
    return {"Records": [record]}


def minio(key: str) -> dict[str, object]:
    name = "s3:ObjectCreated:Put"
    return {"EventName": name, "Key": f"{BUCKET}/{key}", **aws(key)}


def post(hook: str, body: object, token: str = "token") -> tuple[int, str]:
    request = urllib.request.Request(
        hook, data=json.dumps(body).encode(), headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def post_until_taken(hook: str, body: object) -> tuple[int, str]:
    """As S3 servers send: what Prefect's server was too busy to take is sent again."""
    for _ in range(20):
        answer = post(hook, body)
        if answer[0] != 503:
            break
        time.sleep(1)
    return answer


@pytest.mark.parametrize(
    ("body", "token", "status"),
    [
        (aws("arrivals/clips/a.mp4"), "wrong", 401),
        ([], "token", 400),
        ({"Records": [{"s3": {}}]}, "token", 400),
        ({"Records": "many"}, "token", 400),
        (aws("elsewhere/a.mp4"), "token", 200),
        (aws("arrivals/clips-of-another/a.mp4"), "token", 200),
        ({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": BUCKET}, "token", 200),
    ],
)
def test_the_hook_takes_notifications_of_its_datasets_alone(
    hook: str, client: SyncPrefectClient, root: Path, body: object, token: str, status: int
) -> None:
    before = len(Watched(client, root, "bucket").runs("watch"))
    assert post(hook, body, token)[0] == status
    assert len(Watched(client, root, "bucket").runs("watch")) == before


def test_five_hundred_notifications_start_one_retraining(
    hook: str, client: SyncPrefectClient, root: Path, home: None, s3_server: S3Server
) -> None:
    watched = Watched(client, root, "bucket")
    bucket: S3Store = s3_server.open(PREFIX)
    names = [f"a clip+{number}" for number in range(10)]
    for name in names:
        bucket.write(f"{name}.mp4", b"a clip")
        bucket.write(f"{name}.txt", b"its caption")
    keys = [f"arrivals/clips/{name.replace('+', '%2B').replace(' ', '+')}.mp4" for name in names]
    bodies = [(minio if number % 2 else aws)(keys[number % 10]) for number in range(500)]
    began = time.monotonic()
    with ThreadPoolExecutor(16) as senders:
        answers = set(senders.map(lambda body: post_until_taken(hook, body), bodies))
    assert answers == {(200, "looks soon: watch/bucket\n")}
    looks = watched.runs("watch")
    # one, or one more for each span of 15 s that the sending went on
    assert 1 <= len(looks) <= 2 + (time.monotonic() - began) // 15
    assert all(run.parameters["recipe"]["name"] == "bucket" for run in looks)
    states = [watched.look().state for _ in looks]
    assert states == ["announced", *["unchanged"] * (len(looks) - 1)]
    assert watched.started(0) == 1
