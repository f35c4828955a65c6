"""A cache that was killed at any moment is finished by the next run, to the same bytes."""

import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest

from cogvx.cache.index import CacheIndex
from cogvx.model.nano.world import render_world
from cogvx.store import ObjectStore
from tasks.documents import CacheReport
from tasks.workbench import read_stored
from tests.e2e.conftest import Place, make_place, write_recipe
from tests.fixtures.forks import Forks, Job
from tests.fixtures.proxy import Fault, FaultPlan, FaultyProxy, faulty
from tests.fixtures.s3 import BUCKET, S3Server

SEEDS = 30
STAGE = "tests.e2e.cache_stage:fill_and_say"


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
