"""The web hook tells apart whose fault it is: the sender's, Prefect's, or of a wrong name."""

import importlib.util
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType

import pytest

from tests.fixtures.servers import answering, free_port
from tests.infra.compose import INFRA

CHANGED = {"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": "clips/a.mp4"}}}]}
FOUND = b'{"id": "6a1f6a6e-2f7c-4a1e-9b39-000000000001"}'


@pytest.fixture(scope="module")
def notify() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notify", INFRA / "notify" / "notify.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def says(body: bytes, status: bytes = b"200 OK") -> bytes:
    length = str(len(body)).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s" % (
        status,
        length,
        body,
    )


@contextmanager
def hook(notify: ModuleType, port: int) -> Iterator[Callable[[bytes], tuple[int, str]]]:
    """Posts a body to the hook of a Prefect server at this port; returns its answer."""

    class Hook(notify._Hook):  # type: ignore[misc,name-defined]
        watchers = notify.Watchers(f"http://127.0.0.1:{port}", {"s3://b/clips": "watch/x"}, {})
        token = ""

    def post(body: bytes) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}/", data=body)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    server = notify._Server(("127.0.0.1", 0), Hook)
    with serving(server):
        yield post


@contextmanager
def serving(server: HTTPServer) -> Iterator[int]:
    """Runs a server while the block lasts; yields its port."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_what_prefect_took_is_told(notify: ModuleType) -> None:
    with answering(says(FOUND)) as port, hook(notify, port) as post:
        assert post(json.dumps(CHANGED).encode()) == (200, "looks soon: watch/x\n")


NUMBER = b'{"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": 5}}}]}'


@pytest.mark.parametrize("body", [b"no json", b"", b"\xff", b"[]", b"[" * 100_000, NUMBER])
def test_a_body_that_is_no_notification_is_the_senders_fault(
    notify: ModuleType, body: bytes
) -> None:
    with hook(notify, free_port()) as post:
        assert post(body)[0] == 400


@pytest.mark.parametrize(
    "answer",
    [
        says(b"<html>a page</html>"),
        says(b"[]"),
        says(b"{}"),
        says(b"\xff"),
        says(b"no", status=b"401 Unauthorized"),
        says(b"no", status=b"502 Bad Gateway"),
        b"this is no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\nConnection: close\r\n\r\n{",
        b"",
    ],
)
def test_an_answer_that_is_none_of_prefects_has_the_sender_try_again(
    notify: ModuleType, answer: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with answering(answer) as port, hook(notify, port) as post:
        status, said = post(json.dumps(CHANGED).encode())
    assert (status, said) == (503, "Prefect's server did not take it\n")
    assert "Prefect's server did not take it: " in capfd.readouterr().err


def test_a_watcher_that_is_none_is_named(
    notify: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = says(b'{"detail": "Deployment not found"}', status=b"404 Not Found")
    with answering(nobody) as port, hook(notify, port) as post:
        status, said = post(json.dumps(CHANGED).encode())
    assert status == 404
    assert said.startswith("Prefect has no deployment watch/x; deploy it, or correct --watch")
    assert said.strip() in caplog.messages


def test_the_others_look_although_one_is_none(
    notify: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    class Prefect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if "watch/a" in self.path else 200)
            self.end_headers()
            self.wfile.write(FOUND)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    with serving(HTTPServer(("127.0.0.1", 0), Prefect)) as port:
        watches = {"s3://b": "watch/a", "s3://b/clips": "watch/b"}
        watchers = notify.Watchers(f"http://127.0.0.1:{port}", watches, {})
        assert watchers.hear(CHANGED) == ["watch/b"]
    assert "Prefect has no deployment watch/a" in caplog.text
