"""Two cache flows on one store, and a store that fails: the records are the same in the end."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cogvx.cache.index import CacheIndex
from cogvx.cache.records import unpack
from cogvx.errors import TransientError
from cogvx.model.nano.world import render_world
from cogvx.store import ObjectStore
from tests.e2e.conftest import Place, make_place, write_recipe
from tests.fixtures.forks import Forks, Job
from tests.fixtures.proxy import Fault, FaultPlan, FaultyProxy, Passage, faulty
from tests.fixtures.s3 import S3Server

CLIPS = 24


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory, nano_base: Path, prefect_url: str) -> Place:
    root = tmp_path_factory.mktemp("crowded")
    render_world(root / "clips", clips=CLIPS, seed=7)
    recipe = write_recipe(root / "recipe.toml", clips=str(root / "clips"), base=nano_base)
    recipe.write_text(recipe.read_text().replace("= 48", "= 32"))
    return make_place(root, recipe, PREFECT_API_URL=prefect_url)


class Watched:
    """A way to the server that remembers when requests came by.

    A question's time is that before the server heard it, a creation's that after it answered.
    """

    def __init__(self, proxy: FaultyProxy) -> None:
        self.server = proxy.server
        self.asked: dict[str, float] = {}
        self.made: dict[str, tuple[float, float]] = {}
        self.statuses: list[int | None] = []
        self._draw, self._note = proxy.draw, proxy.note
        proxy.draw, proxy.note = self._before, self._after  # type: ignore[method-assign]

    def _before(self, method: str, path: str) -> Fault | None:
        if method == "HEAD" and path not in self.made:
            self.asked[path] = time.monotonic()
        return self._draw(method, path)

    def _after(self, passage: Passage) -> None:
        if passage.method == "PUT" and "/records/" in passage.path:
            self.made[passage.path] = (self.asked[passage.path], time.monotonic())
            self.statuses.append(passage.status)
        self._note(passage)


@pytest.fixture
def ways(s3_server: S3Server) -> Iterator[tuple[Watched, Watched]]:
    with ExitStack() as stack:
        first, second = (
            Watched(stack.enter_context(faulty(s3_server, FaultPlan(rate=0.0)))) for _ in range(2)
        )
        yield first, second


def start(forks: Forks, place: Place, server: S3Server, url: str, home: str) -> Job:
    """`cogvx cache` as on a machine of its own."""
    own = {"COGVX_HOME": str(place.root / home), **server.environment(url)}
    environment = {**place.environment, **own}
    call = "tests.fixtures.forks:call_cli"
    return forks.start(call, "cache", str(place.recipe), environment=environment, cwd=place.root)


def records_in(store: ObjectStore) -> dict[str, bytes]:
    """Every record, verified."""
    records = {entry.key: store.read(entry.key) for entry in store.entries("records/")}
    for key, data in records.items():
        unpack(data, Path(key).stem)
    return records


def reached(store: ObjectStore) -> set[str]:
    (index,) = (
        CacheIndex.model_validate_json(store.read(entry.key)) for entry in store.entries("indexes/")
    )
    return index.reaches()


def test_two_flows_on_one_store_share_the_work(
    forks: Forks,
    crowded: Place,
    ways: tuple[Watched, Watched],
    s3_server: S3Server,
    s3_url: str,
) -> None:
    jobs = [
        start(forks, crowded, way.server, s3_url, home)
        for way, home in zip(ways, ("one", "two"), strict=True)
    ]
    for job in jobs:
        job.succeed()
    store = s3_server.open(s3_url)
    assert set(records_in(store)) == reached(store)

    statuses = [status for way in ways for status in way.statuses]
    assert statuses.count(200) == len(reached(store)), "a record was replaced"
    assert set(statuses) <= {200, 412}

    first, second = (way.made for way in ways)
    twice = first.keys() & second.keys()
    for path in twice:
        (asked, put), (asked_too, put_too) = first[path], second[path]
        assert max(asked, asked_too) < min(put, put_too), f"{path} was made although it was there"
    clips = [path for path in twice if "/latents/" in path]
    assert len(clips) < 0.9 * CLIPS, "the flows walked side by side"
    print(f"{len(clips)} of {CLIPS} clips were encoded twice")


@pytest.mark.parametrize("seed", [1, 2])
def test_a_store_that_fails_is_filled_all_the_same(
    forks: Forks, crowded: Place, s3_server: S3Server, s3_url: str, seed: int
) -> None:
    with faulty(s3_server, FaultPlan(seed=seed, rate=0.2)) as proxy:
        runs = 0
        ended = TransientError.exit_code
        while ended == TransientError.exit_code and runs < 5:
            job = start(forks, crowded, proxy.server, s3_url, f"faulty-{seed}")
            ended = job.wait()
            runs += 1
        assert ended == 0, job.output.read_text()[-4000:]
        assert len(proxy.counts()) > 3, "too little went wrong"
    store = s3_server.open(s3_url)
    assert set(records_in(store)) == reached(store)
    print(f"{runs} run(s), {sum(proxy.counts().values())} faults in {len(proxy.log)} requests")
