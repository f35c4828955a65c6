"""The S3 store over HTTP: a store's promises, whole listings, and errors that say who acts."""

import re
import socket
import traceback
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, SSLError
from pydantic import SecretStr

from cogvx.errors import CogvxError, ConfigError, IntegrityError, TransientError
from cogvx.store import require_writable
from tasks.clients.s3 import S3Store, open_s3
from tasks.clients.s3_errors import translate
from tests.fixtures.s3 import BUCKET, S3Server
from tests.fixtures.servers import answering, free_port
from tests.services.store_contract import StoreContract

SECRET = "hunter2-is-secret"


class TestS3Store(StoreContract):
    @pytest.fixture
    def store(self, s3_store: S3Store) -> S3Store:
        return s3_store


def test_the_url_is_the_one_it_was_opened_with(s3_server: S3Server) -> None:
    assert s3_server.open("s3://b/deep/er").url == "s3://b/deep/er"
    assert s3_server.open("s3://b/deep/").url == "s3://b/deep"
    assert s3_server.open("s3://b").url == "s3://b"


def test_a_prefix_hides_what_lies_beside_it(s3_server: S3Server, s3_url: str) -> None:
    inside, beside = s3_server.open(f"{s3_url}/in"), s3_server.open(f"{s3_url}/inner")
    inside.write("a", b"1")
    beside.write("b", b"2")
    assert [entry.key for entry in inside.entries()] == ["a"]
    whole = s3_server.open(s3_url)
    assert [entry.key for entry in whole.entries()] == ["in/a", "inner/b"]


def test_a_listing_is_whole_beyond_a_thousand_keys(s3_store: S3Store) -> None:
    keys = [f"many/{number:05d}" for number in range(1003)]
    for key in keys:
        s3_store.write(key, b"")
    assert [entry.key for entry in s3_store.entries("many/")] == keys


def test_folder_markers_of_consoles_are_no_objects(s3_server: S3Server, s3_url: str) -> None:
    store = s3_server.open(s3_url)
    s3_server.client().put_object(Bucket=BUCKET, Key=f"{store.prefix}/clips/", Body=b"")
    store.write("clips/a.mp4", b"1")
    assert [entry.key for entry in store.entries()] == ["clips/a.mp4"]


def test_a_large_file_survives_parts_and_ranges(s3_store: S3Store, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(b"".join(bytes([part]) * (1 << 20) for part in range(66)))
    s3_store.upload(path, "large.bin")
    assert s3_store.fetch("large.bin", tmp_path / "back").read_bytes() == path.read_bytes()


def test_a_fetch_that_fails_leaves_nothing_behind(s3_store: S3Store, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError):
        s3_store.fetch("absent.mp4", tmp_path)
    assert list(tmp_path.rglob("*")) == []


def test_a_bucket_that_is_not_there_is_named(s3_server: S3Server, tmp_path: Path) -> None:
    store = s3_server.open("s3://absent/x")
    (tmp_path / "file").write_bytes(b"1")
    for act in (
        lambda: require_writable(store),
        lambda: store.read("key"),
        lambda: store.create("key", b""),
        lambda: store.upload(tmp_path / "file", "key"),
        lambda: list(store.entries()),
    ):
        with pytest.raises(ConfigError) as caught:
            act()
        sentence = str(caught.value)
        assert f"s3://absent/x at {s3_server.endpoint_url} refuses" in sentence
        assert "NoSuchBucket; create the bucket, or name another in the URL" in sentence


def test_a_host_that_nobody_knows_is_the_endpoint_setting() -> None:
    host = "no-such-host.invalid"
    with pytest.raises(socket.gaierror) as caught:
        socket.getaddrinfo(host, 9000)
    if caught.value.errno == socket.EAI_AGAIN:
        pytest.skip("no name server answers here")
    with pytest.raises(ConfigError, match="no such host; check COGVX_S3_ENDPOINT_URL"):
        _open(f"http://{host}:9000").read("key")


def test_a_name_server_that_is_down_may_be_back_later() -> None:
    error = EndpointConnectionError(endpoint_url="http://h")
    error.__cause__ = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    assert isinstance(translate(error, "s3://b at http://h", "key"), TransientError)


def test_a_server_that_is_down_may_be_back_later() -> None:
    store = _open(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(TransientError, match=r"EndpointConnectionError; .*COGVX_S3_ENDPOINT_URL"):
        store.read("key")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="connection closed"),
        pytest.param(
            b"HTTP/1.1 503 Slow Down\r\nContent-Length: 58\r\nConnection: close\r\n\r\n"
            b"<Error><Code>SlowDown</Code><Message>s</Message></Error>\n\n",
            id="slow down",
        ),
        pytest.param(
            b"HTTP/1.1 500 Internal\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            id="server error",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\npart",
            id="torn body",
        ),
    ],
)
def test_a_failing_server_is_transient(answer: bytes) -> None:
    with answering(answer) as port, pytest.raises(TransientError):
        _open(f"http://127.0.0.1:{port}").read("key")


def test_a_conflict_is_a_loss_only_if_the_winner_is_there() -> None:
    conflict = (
        b"HTTP/1.1 409 Conflict\r\nContent-Length: 56\r\nConnection: close\r\n\r\n"
        b"<Error><Code>ConditionalRequestConflict</Code></Error>\n\n"
    )
    absent = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    there = b'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nETag: "e"\r\nConnection: close\r\n\r\n'
    with answering(conflict, head=absent) as port, pytest.raises(TransientError):
        _open(f"http://127.0.0.1:{port}").create("key", b"1")
    with answering(conflict, head=there) as port:
        assert not _open(f"http://127.0.0.1:{port}").create("key", b"1")


@pytest.mark.parametrize(
    ("code", "status", "kind", "words"),
    [
        ("AccessDenied", 403, ConfigError, "COGVX_S3_SECRET_KEY"),
        ("403", 403, ConfigError, "COGVX_S3_ACCESS_KEY"),
        ("InvalidAccessKeyId", 403, ConfigError, "COGVX_S3_ACCESS_KEY"),
        ("SignatureDoesNotMatch", 403, ConfigError, "COGVX_S3_SECRET_KEY"),
        ("PermanentRedirect", 301, ConfigError, "COGVX_S3_REGION"),
        ("AuthorizationHeaderMalformed", 400, ConfigError, "COGVX_S3_REGION"),
        ("RequestTimeTooSkewed", 403, ConfigError, "clock"),
        ("SomethingNew", 400, ConfigError, "SomethingNew"),
        ("SlowDown", 503, TransientError, "SlowDown"),
        ("InternalError", 500, TransientError, "InternalError"),
        ("RequestTimeout", 400, TransientError, "RequestTimeout"),
        ("502", 502, TransientError, "502"),
        ("429", 429, TransientError, "429"),
    ],
)
def test_the_servers_word_decides_who_acts(
    code: str, status: int, kind: type[CogvxError], words: str
) -> None:
    answer = {
        "Error": {"Code": code, "Message": f"the key {SECRET} is bad"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    error = translate(ClientError(answer, "PutObject"), "s3://b/p at http://h", "records/x")
    assert type(error) is kind
    assert words in str(error)
    assert "s3://b/p at http://h" in str(error)
    assert "\n" not in str(error)
    assert SECRET not in str(error)


def test_a_certificate_that_is_not_trusted_is_a_setting() -> None:
    error = SSLError(endpoint_url="https://h", error="self-signed")
    assert isinstance(translate(error, "s3://b at https://h", "key"), ConfigError)


@pytest.mark.parametrize(
    ("url", "changes", "words"),
    [
        ("s3://", {}, "use s3://bucket/prefix"),
        ("http://bucket/x", {}, "use s3://bucket/prefix"),
        (f"s3://AKIA:{SECRET}@bucket/x", {}, "use s3://bucket/prefix, and COGVX_S3_ACCESS_KEY"),
        (f"s3://{SECRET}@bucket/x", {}, "use s3://bucket/prefix, and COGVX_S3_ACCESS_KEY"),
        ("s3://b/x", {"access_key": None}, "one of two keys is set"),
        ("s3://b/x", {"secret_key": SecretStr("")}, "one of two keys is set"),
        ("s3://b/x", {"endpoint_url": "127.0.0.1:9000"}, "use http"),
        ("s3://b/x", {"endpoint_url": f"http://u:{SECRET}@"}, "use http"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_request(
    url: str, changes: dict[str, object], words: str
) -> None:
    settings = {
        "endpoint_url": "http://127.0.0.1:9",
        "access_key": SecretStr("a"),
        "secret_key": SecretStr(SECRET),
        "region": None,
        **changes,
    }
    with pytest.raises(ConfigError, match=words) as caught:
        open_s3(url, **settings)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_no_secret_is_in_a_stores_own_words() -> None:
    store = _open(f"http://user:{SECRET}@127.0.0.1:{free_port()}")
    with pytest.raises(TransientError) as caught:
        store.read("key")
    assert SECRET not in f"{caught.value} {store.url} {store!r}"


@pytest.mark.parametrize("ask", ["read", "info", "write", "create", "delete", "entries", "fetch"])
def test_no_sentence_of_a_server_is_in_a_traceback(ask: str, tmp_path: Path) -> None:
    """Prefect keeps tracebacks, and some servers repeat the key that they were shown."""
    said = f"<Error><Code>InvalidAccessKeyId</Code><Message>no {SECRET}</Message></Error>"
    head = "HTTP/1.1 403 Forbidden\r\nConnection: close\r\n"
    answer = f"{head}Content-Length: {len(said)}\r\n\r\n{said}".encode()
    with answering(answer, head=f"{head}\r\n".encode()) as port:
        store = _open(f"http://127.0.0.1:{port}")
        calls: dict[str, Callable[[], object]] = {
            "read": lambda: store.read("key"),
            "info": lambda: store.info("key"),
            "write": lambda: store.write("key", b"1"),
            "create": lambda: store.create("key", b"1"),
            "delete": lambda: store.delete("key"),
            "entries": lambda: list(store.entries()),
            "fetch": lambda: store.fetch("key", tmp_path / "file"),
        }
        with pytest.raises(ConfigError, match=r"COGVX_S3_ACCESS_KEY") as caught:
            calls[ask]()
    text = "".join(traceback.format_exception(caught.value))
    assert SECRET not in text
    assert re.search(r"ClientError: An error occurred \((InvalidAccessKeyId|403)\) when", text)


def test_a_key_that_no_header_takes_is_a_setting_and_is_not_shown() -> None:
    store = open_s3(
        "s3://bucket/x",
        endpoint_url=f"http://127.0.0.1:{free_port()}",
        access_key=SecretStr("AKIAPLANTED\n"),
        secret_key=SecretStr(SECRET),
        region="us-east-1",
    )
    with pytest.raises(ConfigError, match=r"line end.*check COGVX_S3_ACCESS_KEY") as caught:
        store.read("key")
    assert "AKIAPLANTED" not in "".join(traceback.format_exception(caught.value))


def test_no_secret_of_an_address_is_in_a_traceback() -> None:
    store = _open(f"http://user:{SECRET}@127.0.0.1:{free_port()}")
    with pytest.raises(TransientError) as caught:
        store.read("key")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_keys_that_no_bucket_can_have_are_the_urls_fault(s3_server: S3Server) -> None:
    with pytest.raises(ConfigError, match="name another bucket in the URL"):
        s3_server.open("s3://not a bucket/x").read("key")


def _open(endpoint_url: str) -> S3Store:
    """A store that asks once: the waits between boto3's own retries are not what is tested."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id="access",
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )
    return S3Store("bucket", "prefix", client)
