"""A cache that was killed at any moment is finished by the next run, to the same bytes."""

import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest

from cogvx.cache.index import CacheIndex
from cogvx.cache.records import unpack
from cogvx.model.nano.world import render_world
from cogvx.store import LocalStore, ObjectStore
from tasks.documents import CacheReport
from tasks.workbench import read_stored
from tests.e2e.conftest import Place, make_place, write_recipe
from tests.fixtures.forks import Forks, Job
from tests.fixtures.proxy import Fault, FaultPlan, FaultyProxy, faulty
from tests.fixtures.s3 import BUCKET, S3Server

SEEDS = 30
STAGE = "tests.e2e.cache_stage:fill_and_say"
# Whole commands take seconds where the stage alone takes one, so only a few of them are killed.
COMMAND_SEEDS = 2


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with faulty(s3_server, FaultPlan(rate=0.0)) as way:
        yield way


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, nano_base: Path) -> Place:
    """Three clips of 16x16: what is killed is work on the store, not arithmetic."""
    root = tmp_path_factory.mktemp("small")
    render_world(root / "clips", clips=3, seed=5)
    recipe = write_recipe(root / "recipe.toml", clips=str(root / "clips"), base=nano_base)
    text = recipe.read_text().replace("= 48", "= 16")
    recipe.write_text(text.replace("min_heldout = 3", "min_heldout = 1"))
    return make_place(root, recipe)


class Killer:
    """Kills a process at the n-th request that comes by, before or after the server hears of it."""

    def __init__(self, proxy: FaultyProxy) -> None:
        self.seen = 0
        self._at, self._heard = 0, False
        self._target: Future[int] = Future()
        proxy.draw = self._draw  # type: ignore[method-assign]

    def arm(self, at: int = 0, *, heard: bool = False) -> None:
        """Count from here on, and kill at this request; 0 never comes."""
        self.seen, self._at, self._heard = 0, at, heard
        self._target = Future()

    def aim(self, pid: int) -> None:
        self._target.set_result(pid)

    def _draw(self, method: str, path: str) -> Fault | None:
        self.seen += 1
        if self.seen != self._at:
            return None
        os.kill(self._target.result(), signal.SIGKILL)
        return None if self._heard else Fault.RESET


@pytest.fixture(scope="module")
def killer(proxy: FaultyProxy) -> Killer:
    return Killer(proxy)


@dataclass(frozen=True)
class Stage:
    """Where the stage runs, and what an undisturbed run leaves."""

    place: Place
    forks: Forks
    proxy: FaultyProxy
    records: dict[str, bytes]
    requests: int

    def start(self, url: str) -> Job:
        return start(self.forks, self.place, self.proxy, url)


def start(forks: Forks, place: Place, proxy: FaultyProxy, url: str) -> Job:
    environment = {**place.environment, **proxy.server.environment(url)}
    return forks.start(STAGE, str(place.recipe), environment=environment, cwd=place.root)


def records_in(store: ObjectStore) -> dict[str, bytes]:
    return {entry.key: store.read(entry.key) for entry in store.entries("records/")}


def report_of(job: Job) -> CacheReport:
    return CacheReport.model_validate_json(job.succeed().strip().splitlines()[-1])


@pytest.fixture(scope="module")
def stage(
    small: Place, forks: Forks, proxy: FaultyProxy, killer: Killer, s3_server: S3Server
) -> Stage:
    url = f"s3://{BUCKET}/killed/undisturbed"
    killer.arm()
    report = report_of(start(forks, small, proxy, url))
    store = s3_server.open(url)
    records = records_in(store)
    index = read_stored(store, f"indexes/{report.index}.json", CacheIndex)
    assert set(records) == index.reaches()
    assert report.records_encoded == len(records)
    return Stage(small, forks, proxy, records, killer.seen)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_next_run_ends_with_the_same_bytes(
    stage: Stage, killer: Killer, s3_server: S3Server, seed: int
) -> None:
    url = f"s3://{BUCKET}/killed/{seed}"
    chance = random.Random(seed)
    # Spread over the whole run, so that no part of it is left to luck.
    share = stage.requests / SEEDS
    at = 1 + int(share * seed + chance.random() * share)
    killer.arm(at, heard=chance.random() < 0.5)
    job = stage.start(url)
    killer.aim(job.pid)
    status = job.wait()
    assert status == -signal.SIGKILL or (status == 0 and killer.seen < at), job.output.read_text()

    store = s3_server.open(url)
    kept = records_in(store)
    assert kept.items() <= stage.records.items(), "a record is torn"

    killer.arm()
    report = report_of(stage.start(url))
    assert records_in(store) == stage.records
    assert report.records_encoded == len(stage.records) - len(kept), "something was encoded again"
    index = read_stored(store, f"indexes/{report.index}.json", CacheIndex)
    assert set(stage.records) == index.reaches()


@dataclass(frozen=True)
class Command:
    """`cogvx cache` on stores that are folders, and what an undisturbed one leaves there."""

    forks: Forks
    place: Place
    prefect_url: str
    records: dict[str, bytes]
    seconds: float

    def start(self, home: Path) -> Job:
        return start_command(self.forks, self.place, self.prefect_url, home)


def start_command(forks: Forks, place: Place, prefect_url: str, home: Path) -> Job:
    own = {"COGVX_HOME": str(home), "PREFECT_API_URL": prefect_url}
    call = "tests.fixtures.forks:call_cli"
    environment = {**place.environment, **own}
    return forks.start(call, "cache", str(place.recipe), environment=environment, cwd=place.root)


@pytest.fixture(scope="module")
def command(
    small: Place, forks: Forks, prefect_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Command:
    home = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    start_command(forks, small, prefect_url, home).succeed()
    seconds = time.monotonic() - began
    return Command(forks, small, prefect_url, records_in(LocalStore(home / "store")), seconds)


def require_whole(records: dict[str, bytes], command: Command) -> None:
    for key, data in records.items():
        unpack(data, Path(key).stem)
    assert records.items() <= command.records.items(), "a record is torn"


@pytest.mark.parametrize(
    ("seed", "racers"), [*((seed, 1) for seed in range(COMMAND_SEEDS)), (COMMAND_SEEDS, 2)]
)
def test_a_command_that_is_killed_at_any_time_is_finished_by_another(
    command: Command, tmp_path: Path, seed: int, racers: int
) -> None:
    """One of two that race is killed; the other is then the one that finishes."""
    store = LocalStore(tmp_path / "store")
    delay = random.Random(seed).uniform(0.2, 0.9) * command.seconds
    jobs = [command.start(tmp_path) for _ in range(racers)]
    time.sleep(delay)
    os.kill(jobs[0].pid, signal.SIGKILL)
    assert jobs[0].wait() in (-signal.SIGKILL, 0), jobs[0].output.read_text()
    require_whole(records_in(store), command)

    last = jobs[1] if racers == 2 else command.start(tmp_path)
    last.succeed()
    assert records_in(store) == command.records
    (entry,) = store.entries("indexes/")
    assert set(command.records) == read_stored(store, entry.key, CacheIndex).reaches()
