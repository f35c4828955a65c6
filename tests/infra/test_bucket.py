"""The bucket of compose.yaml is made once, on a server that keeps what it is told to keep."""

import importlib.util
from collections.abc import Callable

import pytest
from pydantic import SecretStr

from cogvx.errors import ConfigError
from tasks.settings import Settings
from tests.fixtures.s3 import S3Server
from tests.fixtures.servers import answering
from tests.infra.compose import INFRA

_REPLACES = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'


@pytest.fixture(scope="module")
def make_bucket() -> Callable[[Settings], str]:
    spec = importlib.util.spec_from_file_location("make_bucket", INFRA / "make_bucket.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[Settings], str] = module.make_bucket
    return found


def _settings(server: S3Server, url: str) -> Settings:
    return Settings(
        store_url=url,
        s3_endpoint_url=server.endpoint_url,
        s3_access_key=SecretStr(server.access_key),
        s3_secret_key=SecretStr(server.secret_key),
        s3_region=server.region,
    )


def test_it_is_made_once_and_left_empty(
    make_bucket: Callable[[Settings], str], s3_server: S3Server
) -> None:
    here = _settings(s3_server, "s3://of-infra/store")
    assert make_bucket(here) == "s3://of-infra was made, and replaces nothing unasked"
    assert make_bucket(here) == "s3://of-infra is there, and replaces nothing unasked"
    assert s3_server.client().list_objects_v2(Bucket="of-infra")["KeyCount"] == 0


def test_a_server_that_replaces_is_refused(make_bucket: Callable[[Settings], str]) -> None:
    with answering(_REPLACES) as port:
        server = S3Server(f"http://127.0.0.1:{port}", "access", "secret")
        with pytest.raises(ConfigError, match="replaces objects in spite of If-None-Match"):
            make_bucket(_settings(server, "s3://careless/store"))


def test_a_place_without_a_bucket_is_told(make_bucket: Callable[[Settings], str]) -> None:
    with pytest.raises(ConfigError, match='COGVX_STORE_URL = "/data" names no bucket; use s3://'):
        make_bucket(Settings(store_url="/data"))
