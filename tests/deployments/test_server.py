"""A server that cannot be used is named in one sentence, with what to do about it."""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from cogvx.errors import CogvxError, ConfigError, TransientError
from deployments.server import asking_for, open_server
from deployments.trigger import run_trigger
from tasks.settings import Settings
from tests.fixtures.servers import answering, free_port
from tests.fixtures.start import PYTHONPATH, ROOT


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


NO_ADDRESS = (
    *("http://127.0.0.1:abc/api", "http://me:hunter2/ab@127.0.0.1:4200/api", "127.0.0.1:4200/api"),
    *(
        "http://me:12/hunter2@127.0.0.1:4200/api",
        "http://me:hunter2#a@127.0.0.1/api",
        "http:///api",
    ),
    *("http://me:1?hunter2@127.0.0.1/api", "http://127.0.0.1:4200/api\n", "ftp://127.0.0.1/api"),
    *("http://127.0.0.1:99999/api", "http://127.0.0.1:4200/api\x07"),
)
WRITTEN = (
    "PREFECT_API_URL is no address of a server; write it like http://127.0.0.1:4200/api, with %2F "
    "for /, %3F for ?, %23 for # and %40 for @ in a password"
)


@pytest.mark.parametrize("url", NO_ADDRESS)
def test_what_is_no_address_is_told_with_how_it_is_written(url: str, tmp_path: Path) -> None:
    deploying = refused(url)
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(ConfigError) as caught:
        run_trigger("ships", Settings(home=tmp_path), wait=False)
    for error in (deploying, caught.value):
        assert isinstance(error, ConfigError)
        assert str(error) == WRITTEN
        shown = "".join(traceback.format_exception(error))
        assert "httpx.InvalidURL" not in shown  # whose words begin with the password


def test_a_password_with_a_slash_is_written_by_its_number() -> None:
    error = refused(f"http://me:hunter2%2Fab@127.0.0.1:{free_port()}/api")
    assert isinstance(error, TransientError)
    assert "hunter2" not in str(error)


PROXY = "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is no address of a proxy; write it like http://proxy"


@pytest.mark.parametrize(
    ("command", "name", "url", "said"),
    [
        (("deploy",), "PREFECT_API_URL", "http://me:hunter2/ab@127.0.0.1:4200/api", WRITTEN),
        (("deploy",), "HTTP_PROXY", "http://me:hunter2/ab@proxy:3128", PROXY),
        (("trigger", "ships"), "HTTP_PROXY", "gopher://me:hunter2@proxy:3128", PROXY),
    ],
)
def test_commands_say_it_in_one_line(
    command: tuple[str, ...], name: str, url: str, said: str, tmp_path: Path
) -> None:
    server = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    environment = {**os.environ, **server, "COGVX_HOME": str(tmp_path), "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli", *command],
        cwd=ROOT,
        env={**environment, name: url},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def _asks(client: SyncPrefectClient) -> None:
    with asking_for("what is deployed"):
        client.read_work_pools()


@pytest.mark.parametrize(
    "status", ["401 Unauthorized", "403 Forbidden", "404 Not Found", "409 Conflict", "400 Bad"]
)
def test_no_cause_of_an_error_shows_a_password(status: str, tmp_path: Path) -> None:
    said = {"detail": "http://me:hunter2@here"}
    with answering(answer(status, said)) as port:
        url = f"http://me:hunter2@127.0.0.1:{port}/api"
        errors = [refused(url)]
        with temporary_settings({PREFECT_API_URL: url}):
            with get_client(sync_client=True) as client, pytest.raises(CogvxError) as asked:
                _asks(client)
            with pytest.raises(CogvxError) as triggered:
                run_trigger("ships", Settings(home=tmp_path), wait=False)
        errors += [asked.value, triggered.value]
    for error in errors:
        assert "hunter2" not in "".join(traceback.format_exception(error))


def test_a_server_that_is_gone_shows_no_password_in_a_cause() -> None:
    url = f"http://me:hunter2@127.0.0.1:{free_port()}/api"
    shown = "".join(traceback.format_exception(refused(url)))
    assert "hunter2" not in shown
