"""A bucket's notifications have its watcher look now: a web hook, or an AWS Lambda function.

Needs nothing but Python's standard library. However many objects change, the watcher looks once for
each span of some seconds, after that span; it alone decides whether clips arrived, waits until
uploads rest, and emits the event that starts a retraining. So 500 uploads start one.

    python notify.py --watch s3://bucket/clips=watch/taught [--port 8090]

Environment: PREFECT_API_URL; PREFECT_API_AUTH_STRING or PREFECT_API_KEY if the server asks for one;
COGVX_NOTIFY_TOKEN, which senders must then show as `Authorization: Bearer TOKEN`. The Lambda
function is `notify.handler`; it reads COGVX_NOTIFY_WATCHES, with spaces between several datasets.
"""  # noqa: INP001 - a file to be deployed by itself

import argparse
import base64
import hmac
import http.client
import json
import logging
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

logger = logging.getLogger("notify")

SPAN_SECONDS = 15
"""Notifications of a span start one look, at its end; one that comes during it starts another."""

_LONGEST_BODY = 1 << 20
_ANSWER_WITHIN_SECONDS = 30.0
_NOT_PREFECT = "what answers is not Prefect's API; PREFECT_API_URL should end with /api"
_HOW = "use s3://bucket/prefix=watch/<recipe name>"


class Unreadable(ValueError):  # noqa: N818 - of what was sent
    """This is no notification of a bucket."""


class Unanswered(OSError):  # noqa: N818 - as of a server that is away
    """What answered is not Prefect's server."""


class Unknown(LookupError):  # noqa: N818 - of a name
    """Prefect has no such deployment."""


class Watchers:
    """Which watcher looks after which dataset, on one Prefect server."""

    def __init__(
        self, api_url: str, watches: Mapping[str, str], headers: Mapping[str, str]
    ) -> None:
        """`watches` has deployments, as watch/taught, by the datasets' addresses."""
        self._api_url = api_url.rstrip("/")
        self._watches = {uri.rstrip("/"): deployment for uri, deployment in watches.items()}
        self._headers = {"Content-Type": "application/json", **headers}
        self._told: dict[str, int] = {}
        self._lock = threading.Lock()

    def hear(self, notification: object) -> list[str]:
        """Have the watchers look whose datasets it is about; returns their deployments.

        One that Prefect does not have is logged, and the others look all the same: its dataset is
        looked at when it is deployed.

        Raises:
            Unreadable: This is no notification of a bucket.
            Unknown: Prefect has none of these deployments.
            OSError: Prefect's server did not answer; the sender should send it again.
        """
        places = list(_places(notification))
        concerned = sorted(
            {
                deployment
                for uri, deployment in self._watches.items()
                for place in places
                if place.startswith(f"{uri}/")
            }
        )
        told, unknown = [], None
        with self._lock:  # so that of many at once one asks, and the others find it done
            for deployment in concerned:
                try:
                    self._look_soon(deployment)
                except Unknown as error:
                    logger.warning("%s", error)
                    unknown = error
                else:
                    told.append(deployment)
        if unknown is not None and not told:
            raise unknown
        return told

    def _look_soon(self, deployment: str) -> None:
        """Schedule a look at the end of this span; by its key the server knows one that is."""
        span = int(time.time()) // SPAN_SECONDS + 1
        if self._told.get(deployment) == span:
            return
        at = datetime.fromtimestamp(span * SPAN_SECONDS, UTC).isoformat()
        look = {
            "state": {"type": "SCHEDULED", "state_details": {"scheduled_time": at}},
            "idempotency_key": f"notified {deployment} {span}",
            "tags": ["notified"],
        }
        try:
            found = self._ask("GET", f"/deployments/name/{urllib.parse.quote(deployment)}")
            self._ask("POST", f"/deployments/{found['id']}/create_flow_run", look)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.NOT_FOUND:
                raise
            raise Unknown(
                f"Prefect has no deployment {deployment}; deploy it, or correct --watch or "
                "COGVX_NOTIFY_WATCHES"
            ) from error
        self._told[deployment] = span

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - the operator says which server
            self._api_url + path,
            method=method,
            headers=dict(self._headers),
            data=None if body is None else json.dumps(body).encode(),
        )
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_WITHIN_SECONDS) as answer:  # noqa: S310
                found = json.load(answer)
        except (ValueError, http.client.HTTPException) as error:
            raise Unanswered(f"{_NOT_PREFECT} ({error!r})") from error
        if not isinstance(found, dict) or "id" not in found:
            raise Unanswered(_NOT_PREFECT)
        return found


def _notification(body: bytes) -> object:
    try:
        found: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unreadable("the notification is no JSON") from error
    return found


def _places(notification: object) -> Iterator[str]:
    """Where the changed objects lie, as s3://bucket/key; a bucket's test message names none.

    S3 writes keys as in a form: a blank is a plus. Servers that leave keys as they are exist, so
    both readings count; it only matters which dataset they are below.
    """
    if not isinstance(notification, dict):
        raise Unreadable("the notification is no JSON object")
    if notification.get("Event") == "s3:TestEvent":
        return
    records = notification.get("Records")
    if not isinstance(records, list):
        raise Unreadable("the notification has no list of Records")
    for record in records:
        try:
            bucket, key = record["s3"]["bucket"]["name"], record["s3"]["object"]["key"]
            yield from {f"s3://{bucket}/{name}" for name in (key, urllib.parse.unquote_plus(key))}
        except (KeyError, TypeError, AttributeError) as error:
            raise Unreadable("a record does not say which object of which bucket it is") from error


def handler(event: object, _context: object = None) -> dict[str, object]:
    """The Lambda function; what it raises has AWS send the notification again."""
    return {"watchers": _watchers().hear(event)}


@cache
def _watchers() -> Watchers:
    return _from_environment(_watches(_setting("COGVX_NOTIFY_WATCHES").split()))


def _from_environment(watches: Mapping[str, str]) -> Watchers:
    api_url, key = _setting("PREFECT_API_URL"), _setting("PREFECT_API_KEY")
    if not api_url or not watches:
        raise SystemExit("set PREFECT_API_URL, and name at least one dataset with its watcher")
    words = _setting("PREFECT_API_AUTH_STRING")
    basic = f"Basic {base64.b64encode(words.encode()).decode()}" if words else ""
    header = f"Bearer {key}" if key else basic
    return Watchers(api_url, watches, {"Authorization": header} if header else {})


def _watches(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        uri, equals, deployment = pair.rpartition("=")
        if not equals or not uri.startswith("s3://") or not deployment.startswith("watch/"):
            raise SystemExit(f"{pair!r} names no dataset with its watcher; {_HOW}")
        found[uri] = deployment
    return found


def _setting(name: str) -> str:
    # A secret that was read from a file may end with a line end, which no header may hold.
    return os.environ.get(name, "").strip()  # noqa: TID251 - this file stands alone


class _Hook(BaseHTTPRequestHandler):
    """POST a notification anywhere; GET says that the hook is there."""

    protocol_version = "HTTP/1.1"  # senders keep the connection
    timeout = 60
    watchers: Watchers
    token: str

    def do_GET(self) -> None:
        """Say that the hook is there."""
        self._answer(HTTPStatus.OK, "notifications are taken by POST")

    def do_HEAD(self) -> None:
        """Some senders ask so whether the hook is there."""
        self._answer(HTTPStatus.OK, "")

    def do_POST(self) -> None:
        """Take a notification; anything but 200 has the sender try again."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or int(length) > _LONGEST_BODY:
            self.close_connection = True  # its body is not read
            self._answer(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too long or of no length"
            )
            return
        body = self.rfile.read(int(length))
        shown = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(shown.encode(), self.token.encode()):
            self._answer(HTTPStatus.UNAUTHORIZED, "the token is missing or wrong")
            return
        try:
            told = self.watchers.hear(_notification(body))
        except Unreadable as error:
            self._answer(HTTPStatus.BAD_REQUEST, str(error))
        except Unknown as error:
            self._answer(HTTPStatus.NOT_FOUND, str(error))
        except OSError as error:
            self.log_error("Prefect's server did not take it: %s", error)
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "Prefect's server did not take it")
        else:
            self._answer(HTTPStatus.OK, f"looks soon: {', '.join(told) or 'nobody'}")

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing of what went well."""

    def _answer(self, status: HTTPStatus, words: str) -> None:
        body = f"{words}\n".encode() if words else b""
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    """Many senders may come at once; the next one waits instead of being turned away."""

    daemon_threads = True
    request_queue_size = 512


def main() -> None:
    """Serve the web hook until somebody stops it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--watch", action="append", default=[], metavar="DATASET=DEPLOYMENT")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    given = parser.parse_args()
    _Hook.watchers = _from_environment(_watches(given.watch))
    _Hook.token = _setting("COGVX_NOTIFY_TOKEN")
    with _Server((given.host, given.port), _Hook) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
