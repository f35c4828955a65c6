"""The whole chain with clips and store on S3, over HTTP."""

from pathlib import Path

import pytest

from tests.e2e.conftest import Place, make_place, write_recipe
from tests.fixtures.forks import Forks
from tests.fixtures.s3 import BUCKET, S3Server


@pytest.fixture(scope="module")
def remote(
    tmp_path_factory: pytest.TempPathFactory,
    s3_server: S3Server,
    nano_base: Path,
    world_clips: Path,
    prefect_url: str,
) -> Place:
    client = s3_server.client()
    for path in world_clips.iterdir():
        client.upload_file(str(path), BUCKET, f"e2e/clips/{path.name}")
    root = tmp_path_factory.mktemp("remote")
    clips = f"s3://{BUCKET}/e2e/clips"
    recipe = write_recipe(root / "recipe.toml", clips=clips, base=nano_base)
    settings = s3_server.environment(f"s3://{BUCKET}/e2e/store")
    return make_place(root, recipe, PREFECT_API_URL=prefect_url, **settings)


def retrain(forks: Forks, place: Place) -> str:
    call, recipe = "tests.fixtures.forks:call_cli", str(place.recipe)
    job = forks.start(call, "retrain", recipe, environment=place.environment, cwd=place.root)
    return job.succeed()


def test_the_chain_runs_on_s3_and_then_finds_nothing_to_do(remote: Place, forks: Forks) -> None:
    printed = retrain(forks, remote)
    assert "12 accepted" in printed
    assert "tiny version 1" in printed
    assert "report.html" in printed
    assert not (remote.home / "store").exists()
    assert "unchanged" in retrain(forks, remote)


def test_a_bucket_that_is_not_there_is_one_sentence_without_the_secret(remote: Place) -> None:
    settings = {**remote.environment, "COGVX_STORE_URL": "s3://no-such-bucket/store"}
    done = Place(remote.root, remote.recipe, settings).run("cache", str(remote.recipe))
    assert done.returncode == 2
    assert "no-such-bucket" in done.stderr
    assert "Traceback" not in done.stderr
    assert settings["COGVX_S3_SECRET_KEY"] not in done.stderr
