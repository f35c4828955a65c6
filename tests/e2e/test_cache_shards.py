"""The cache flow in shards: one that fails fails alone, and a cache that is complete loads nothing.

The tests tell one story, in order: a run with a broken shard, a run that mends it, a run in peace.
"""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cogvx.cache.index import CacheIndex
from cogvx.cache.plan import CachePlan
from cogvx.cache.shards import estimated_seconds
from cogvx.store import LocalStore
from tests.e2e.conftest import Place, empty_caption_blocked, make_place, write_recipe
from tests.fixtures.forks import Forks, Job

SHARD_SECONDS = 0.1


@pytest.fixture(scope="module")
def sharded(
    tmp_path_factory: pytest.TempPathFactory, nano_base: Path, world_clips: Path, prefect_url: str
) -> Place:
    root = tmp_path_factory.mktemp("sharded")
    recipe = write_recipe(root / "recipe.toml", clips=str(world_clips), base=nano_base)
    settings = {"PREFECT_API_URL": prefect_url, "COGVX_SHARD_SECONDS": str(SHARD_SECONDS)}
    return make_place(root, recipe, **settings)


@pytest.fixture(scope="module")
def store(sharded: Place) -> LocalStore:
    return LocalStore(sharded.home / "store")


def run(forks: Forks, place: Place) -> Job:
    words = ("cache", str(place.recipe))
    call = "tests.fixtures.forks:call_cli"
    return forks.start(call, *words, environment=place.environment, cwd=place.root)


def records_in(store: LocalStore) -> set[str]:
    return {entry.key for entry in store.entries("records/")}


@pytest.fixture(scope="module")
def broken(forks: Forks, sharded: Place, store: LocalStore, nano_base: Path) -> str:
    """What a run says where one record cannot be written, because a file stands in its way."""
    with empty_caption_blocked(store, sharded, nano_base):
        job = run(forks, sharded)
        status = job.wait()
    printed = job.output.read_text()
    assert status == 2, printed
    assert "Traceback" not in printed
    return printed


def test_a_failed_shard_is_named_with_its_reason(broken: str) -> None:
    error = " ".join(broken[broken.index("error:") :].split())
    assert "1 of 4 failed" in error
    assert re.search(r"- shard [234] of 4: .*cannot be written", error)


def test_the_other_shards_finish_and_their_records_stay(broken: str, store: LocalStore) -> None:
    shards = [
        CachePlan.model_validate_json(store.read(entry.key)) for entry in store.entries("plans/")
    ]
    assert len(shards) == 4
    done = [shard for shard in shards if not any(not item.caption for item in shard.captions)]
    assert len(done) == 3
    stems = {Path(path).stem for path in records_in(store)}
    for shard in done:
        assert {item.key for item in (*shard.clips, *shard.captions)} <= stems
    assert max(map(estimated_seconds, shards)) <= 1.5 * SHARD_SECONDS


@pytest.fixture(scope="module")
def mended(broken: str, forks: Forks, sharded: Place, store: LocalStore) -> tuple[int, str]:
    """How many records were missing, and what the next run said."""
    missing = 25 - len(records_in(store))
    return missing, run(forks, sharded).succeed()


def test_the_next_run_makes_only_what_is_missing(
    mended: tuple[int, str], store: LocalStore
) -> None:
    missing, printed = mended
    assert missing > 0
    assert f"{missing} encoded, {25 - missing} reused" in printed
    indexes = [
        CacheIndex.model_validate_json(store.read(entry.key)) for entry in store.entries("indexes/")
    ]
    assert [index.reaches() for index in indexes] == [records_in(store)]


def ask(url: str, what: str, **filters: Any) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"{url}/{what}/filter",
        data=json.dumps({"limit": 200, **filters}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def test_shards_are_seen_in_prefect(
    mended: tuple[int, str], sharded: Place, prefect_url: str, world_clips: Path
) -> None:
    for number in range(1, 5):
        name = f"encode tiny on {world_clips.name}, shard {number} of 4"
        assert ask(prefect_url, "flow_runs", flow_runs={"name": {"any_": [name]}})
    tables = ask(prefect_url, "artifacts", artifacts={"key": {"any_": ["cache-shards"]}})
    rows = [json.loads(table["data"]) for table in tables if table["type"] == "table"]
    # other tests' shards fail on the same server
    told = [row["failed"] for table in rows for row in table if row["failed"]]
    failed = [reason for reason in told if str(sharded.root) in reason]
    assert len(failed) == 1
    assert "cannot be written" in failed[0]
    assert max(len(table) for table in rows) == 4
    bars = ask(prefect_url, "artifacts", artifacts={"key": {"any_": ["encode-shards"]}})
    assert "progress" in {bar["type"] for bar in bars}


def test_a_complete_cache_is_found_so_without_loading_torch(
    mended: tuple[int, str], sharded: Place, store: LocalStore
) -> None:
    before = {entry.key: entry.stamp for entry in store.entries("records/")}
    loaded = sharded.root / "loaded"
    program = (
        "import atexit, sys, pathlib\n"
        f"atexit.register(lambda: pathlib.Path({str(loaded)!r}).write_text("
        "'\\n'.join(sorted(sys.modules))))\n"
        f"sys.argv = ['cogvx', 'cache', {str(sharded.recipe)!r}]\n"
        "from flows.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=sharded.root,
        env=sharded.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "0 encoded, 25 reused" in done.stdout
    modules = set(loaded.read_text().split("\n"))
    assert not {"torch", "diffusers", "transformers", "decord", "safetensors"} & modules
    assert {entry.key: entry.stamp for entry in store.entries("records/")} == before
