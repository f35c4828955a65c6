"""The whole chain with clips and store on S3, over HTTP."""

from pathlib import Path

import boto3
import pytest

from tests.e2e.conftest import Place, make_place, write_recipe
from tests.fixtures.s3 import S3Server


@pytest.fixture(scope="module")
def remote(
    tmp_path_factory: pytest.TempPathFactory,
    s3_server: S3Server,
    nano_base: Path,
    world_clips: Path,
    prefect_home: Path,
) -> Place:
    client = boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint_url,
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        region_name=s3_server.region,
    )
    client.create_bucket(Bucket="e2e")
    for path in world_clips.iterdir():
        client.upload_file(str(path), "e2e", f"clips/{path.name}")
    root = tmp_path_factory.mktemp("remote")
    recipe = write_recipe(root / "recipe.toml", clips="s3://e2e/clips", base=nano_base)
    return make_place(
        root,
        recipe,
        prefect_home,
        COGVX_STORE_URL="s3://e2e/store",
        COGVX_S3_ENDPOINT_URL=s3_server.endpoint_url,
        COGVX_S3_ACCESS_KEY=s3_server.access_key,
        COGVX_S3_SECRET_KEY=s3_server.secret_key,
        COGVX_S3_REGION=s3_server.region,
    )


def test_the_chain_runs_on_s3_and_then_finds_nothing_to_do(remote: Place) -> None:
    printed = remote.succeed("retrain", str(remote.recipe))
    assert "12 accepted" in printed
    assert "tiny version 1" in printed
    assert "report.html" in printed
    assert not (remote.home / "store").exists()
    assert "unchanged" in remote.succeed("retrain", str(remote.recipe))


def test_refused_settings_are_one_sentence_without_the_secret(remote: Place) -> None:
    broken = Place(
        remote.root,
        remote.recipe,
        {**remote.environment, "COGVX_STORE_URL": "s3://no-such-bucket/store"},
    )
    done = broken.run("cache", str(remote.recipe))
    assert done.returncode == 2
    assert "no-such-bucket" in done.stderr
    assert "Traceback" not in done.stderr
    assert remote.environment["COGVX_S3_SECRET_KEY"] not in done.stderr
