"""Programs that run beside us for long: each under a supervisor, with its log and its end.

What a supervisor started ends when this process does, however that happens. Which programs these
are, and what to do when one dies, is for whoever starts them.
"""

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tasks.clients.processes import Mark
from tasks.clients.supervise import children

STOP_SECONDS = 15.0
"""How long a server has to end by itself."""
LOG_BYTES = 10 * 2**20
"""Most bytes of a log; one older part of this size stays beside it."""

_TAIL_BYTES = 4000

Guard = Literal["supervise", "tend"]


@dataclass(frozen=True)
class Service:
    """One program: what it is called, how it is started, and where it answers.

    Attributes:
        name: Short, unique, fit for a file name.
        title: For sentences.
        module: Run by this Python, with `arguments`.
        environment: Added to this process's own; shown to whoever lists processes.
        health: URL that answers when it is well; empty for what does not serve.
        pool: The work pool that it polls, if it is a worker.
        gpus: What a worker has, as CUDA_VISIBLE_DEVICES says it; empty for all or none.
        must_stay: Whether its end is a fault.
        guard: What looks after it: `supervise`, or `tend` for a worker.
        grace: Seconds from the request to stop until it is killed, as its guard counts them.
    """

    name: str
    title: str
    module: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    health: str = ""
    pool: str = ""
    gpus: str = ""
    must_stay: bool = True
    guard: Guard = "supervise"
    grace: float = STOP_SECONDS


class Started:
    """A service whose supervisor this process started."""

    service: Service
    log: Path
    supervisor: Mark
    _process: "subprocess.Popen[bytes]"

    def __init__(self, service: Service, log: Path) -> None:
        """Start it; what it prints is appended to `log`."""
        self.service = service
        self.log = log
        guard = [sys.executable, "-m", f"tasks.clients.{service.guard}"]
        guard += ["--grace", str(service.grace)]
        for name, value in service.environment.items():
            guard += ["--env", f"{name}={value}"]
        command = [sys.executable, "-m", service.module, *service.arguments]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*guard, "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, who stop things in their order
            )
        mark = Mark.of(self._process.pid)
        # so far nobody has waited for it, so its number is its own even if it has ended
        self.supervisor = mark or Mark(pid=self._process.pid, born="")

    @property
    def code(self) -> int | None:
        """The exit code, 128 + n after signal n; None while it runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def processes(self) -> tuple[Mark, ...]:
        """The supervisor and what it looks after, without what those have started in turn."""
        below = [Mark.of(pid) for pid in children(self.supervisor.pid)[:1]]
        return (self.supervisor, *(mark for mark in below if mark))

    def last_words(self) -> str:
        """The end of its log."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").strip()


def answers(url: str, *, seconds: float = 5.0) -> bool:
    """Whether a server on this machine says at this URL that it is well."""
    try:
        with urllib.request.urlopen(url, timeout=seconds):  # noqa: S310 - http, named by us
            return True
    except (urllib.error.URLError, OSError, ValueError):
        return False
