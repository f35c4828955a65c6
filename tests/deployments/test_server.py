"""A server that cannot be used is named in one sentence, with what to do about it."""

import json

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from cogvx.errors import CogvxError, ConfigError, TransientError
from deployments.server import open_server
from tests.fixtures.servers import answering, free_port


def refused(url: str | None) -> CogvxError:
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(CogvxError) as caught,
        open_server(),
    ):
        pass
    return caught.value


def answer(status: str, document: object) -> bytes:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\nConnection: close\r\n\r\n".encode() + body


def test_no_server_is_named() -> None:
    error = refused(None)
    assert isinstance(error, ConfigError)
    assert str(error).startswith("PREFECT_API_URL names no server; start one with `cogvx up`")


def test_a_server_that_does_not_answer_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}/api"
    error = refused(url)
    assert isinstance(error, TransientError)
    assert str(error).startswith(f"no Prefect server answers at {url}: ")


@pytest.mark.parametrize(
    ("status", "document", "said"),
    [
        ("200 OK", "2.20.4", "is Prefect 2.20.4 and this is 3."),
        ("401 Unauthorized", {}, "refuses us; PREFECT_API_AUTH_STRING or PREFECT_API_KEY is"),
        ("404 Not Found", {"detail": "Not Found"}, "no Prefect server answers at"),
        ("200 OK", {"an": "other program"}, "no Prefect server answers at"),
    ],
)
def test_what_is_no_server_of_ours_is_told(status: str, document: object, said: str) -> None:
    with answering(answer(status, document)) as port:
        error = refused(f"http://127.0.0.1:{port}/api")
    assert said in str(error)
    assert "\n" not in str(error)


def test_a_password_in_the_servers_address_is_never_shown() -> None:
    url = f"http://me:hunter2@127.0.0.1:{free_port()}/api"
    assert "http://me:***@127.0.0.1" in str(refused(url))
    for status, document in (("401 Unauthorized", {}), ("200 OK", "2.20.4"), ("404 Not Found", {})):
        with answering(answer(status, document)) as port:
            error = refused(f"http://me:hunter2@127.0.0.1:{port}/api")
        assert "http://me:***@127.0.0.1" in str(error)
        assert "hunter2" not in str(error)
