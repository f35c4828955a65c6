"""The same promises on a server that checks keys and signatures: Ceph's gateway."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cogvx.errors import ConfigError
from cogvx.store import require_writable
from tasks.clients.s3 import S3Store
from tests.fixtures.s3 import S3Server
from tests.services.store_contract import StoreContract

pytestmark = pytest.mark.services

_MIB = 1 << 20


class TestRadosgwStore(StoreContract):
    @pytest.fixture
    def store(self, radosgw_store: S3Store) -> S3Store:
        return radosgw_store


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"access_key": "nobody"}, "InvalidAccessKeyId"),
        ({"secret_key": "hunter2-is-wrong"}, "SignatureDoesNotMatch"),
    ],
)
def test_wrong_keys_are_named_with_the_settings_to_check(
    radosgw_server: S3Server, s3_url: str, change: dict[str, str], word: str
) -> None:
    refused = dataclasses.replace(radosgw_server, **change)
    with pytest.raises(ConfigError) as caught:
        require_writable(refused.open(s3_url))
    assert str(caught.value) == (
        f"{s3_url} at {refused.endpoint_url} refuses .writable: {word}; "
        "check COGVX_S3_ACCESS_KEY and COGVX_S3_SECRET_KEY"
    )


def test_keys_without_rights_are_told_what_they_lack(
    radosgw_stranger: S3Server, s3_url: str, tmp_path: Path
) -> None:
    store = radosgw_stranger.open(s3_url)
    for act in (
        lambda: require_writable(store),
        lambda: store.create("key", b""),
        lambda: store.read("key"),
        lambda: store.info("key"),
        lambda: store.fetch("key", tmp_path),
        lambda: list(store.entries()),
    ):
        with pytest.raises(ConfigError, match="may list, read, write and delete there"):
            act()


def test_a_bucket_that_is_not_there_is_named(radosgw_server: S3Server) -> None:
    with pytest.raises(ConfigError, match=r"s3://absent/x .* NoSuchBucket; create the bucket"):
        require_writable(radosgw_server.open("s3://absent/x"))


def test_a_listing_is_whole_beyond_a_thousand_keys(radosgw_store: S3Store) -> None:
    keys = [f"many/{number:05d}" for number in range(1203)]
    with ThreadPoolExecutor(16) as writers:
        list(writers.map(lambda key: radosgw_store.write(key, b""), keys))
    assert [entry.key for entry in radosgw_store.entries("many/")] == keys


def test_a_large_file_survives_parts_and_ranges(radosgw_store: S3Store, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(b"".join(bytes([part]) * _MIB for part in range(70)))
    radosgw_store.upload(path, "large.bin")
    assert radosgw_store.fetch("large.bin", tmp_path / "back").read_bytes() == path.read_bytes()
