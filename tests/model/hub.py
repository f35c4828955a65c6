"""A hub of one repository over HTTP, with the few answers that a snapshot download asks for."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

COMMIT = "a" * 40
UNWANTED = ("README.md", "vae/weights.bin")


class Hub:
    """Serves a folder as me/nano; `status` other than 200 refuses everything."""

    def __init__(self, folder: Path) -> None:
        self.status = 200
        self.asked: list[str] = []
        self._folder = folder
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers for a path without its query."""
        self.asked.append(path)
        if self.status != 200:
            return (
                self.status,
                b"{}",
                {"X-Error-Code": "RepoNotFound"} if self.status == 404 else {},
            )
        if path.startswith("/api/models/me/nano/revision/"):
            siblings = [{"rfilename": name} for name in self._names()]
            return self._json({"id": "me/nano", "sha": COMMIT, "siblings": siblings})
        if path.startswith("/api/models/me/nano/tree/"):
            return self._json(
                [{"type": "file", "path": name, "size": 1, "oid": COMMIT} for name in self._names()]
            )
        _, resolved, rest = path.partition(f"/me/nano/resolve/{COMMIT}/")
        if resolved and (self._folder / rest).is_file():
            body = (self._folder / rest).read_bytes()
            etag = hashlib.sha256(body).hexdigest()
            return 200, body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        return 404, b"{}", {}

    def _names(self) -> list[str]:
        found = (path for path in self._folder.rglob("*") if path.is_file())
        return [path.relative_to(self._folder).as_posix() for path in found] + list(UNWANTED)

    def _json(self, document: object) -> tuple[int, bytes, dict[str, str]]:
        return 200, json.dumps(document).encode(), {"Content-Type": "application/json"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, body, headers = hub.answer(self.path.partition("?")[0])
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

            def log_message(self, *_: object) -> None:
                pass

        return Handler
