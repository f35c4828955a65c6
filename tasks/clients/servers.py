"""Start Prefect's and MLflow's servers on this machine, and stop them again."""

import logging
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

from cogvx.errors import ConfigError
from tasks.settings import settings

logger = logging.getLogger(__name__)

# MLflow's own jobs judge answers of language models; they would cost a process that does nothing.
_NO_JOBS = ("--env", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false")
_STARTUP_SECONDS = 120
_STOP_SECONDS = 15


def serve_until_interrupted(*, prefect_port: int, mlflow_port: int) -> None:
    """Run both servers on loopback, in the foreground; Ctrl-C or the end of either stops both.

    Raises:
        ConfigError: A server ended by itself, most often because its port is taken.
    """
    here = settings()
    if here.tracking_uri:
        raise ConfigError(
            "COGVX_TRACKING_URI names an MLflow server; unset it to serve this folder"
        )
    servers: dict[str, subprocess.Popen[bytes]] = {}
    try:
        host = ["--host", "127.0.0.1", "--port"]
        prefect = ["prefect", "server", "start", *host, str(prefect_port)]
        servers["Prefect"] = _start("Prefect", prefect)
        database = ["--backend-store-uri", here.mlflow_uri]
        artifacts = ["--artifacts-destination", str(here.mlflow_artifacts)]
        mlflow = ["mlflow", "server", *host, str(mlflow_port), "--workers", "1"]
        servers["MLflow"] = _start("MLflow", [*mlflow, *database, *artifacts], *_NO_JOBS)
        _wait_until_healthy("Prefect", f"http://127.0.0.1:{prefect_port}/api/health", servers)
        _wait_until_healthy("MLflow", f"http://127.0.0.1:{mlflow_port}/health", servers)
        logger.info("Prefect  http://127.0.0.1:%d", prefect_port)
        logger.info("MLflow   http://127.0.0.1:%d", mlflow_port)
        logger.info("Ctrl-C stops both")
        while True:
            _require_alive(servers)
            time.sleep(1)
    except KeyboardInterrupt:
        logger.info("stopping")
    finally:
        _stop(servers)


def _start(name: str, command: Sequence[str], *options: str) -> subprocess.Popen[bytes]:
    """A server that ends when this process does, however that happens; it prints into a log."""
    supervise = [sys.executable, "-m", "tasks.clients.supervise", "--grace", str(_STOP_SECONDS)]
    supervise += options
    log = settings().home / f"{name.lower()}.log"
    with log.open("ab") as output:
        return subprocess.Popen(
            [*supervise, "--", sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_until_healthy(name: str, url: str, servers: dict[str, subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + _STARTUP_SECONDS
    while time.monotonic() < until:
        _require_alive(servers)
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - loopback over http
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise ConfigError(f"{name} did not answer at {url} within {_STARTUP_SECONDS} s")


def _require_alive(servers: dict[str, subprocess.Popen[bytes]]) -> None:
    for name, process in servers.items():
        code = process.poll()
        if code is not None:
            log = settings().home / f"{name.lower()}.log"
            raise ConfigError(
                f"{name}'s server ended with code {code}; is its port taken? See {log}"
            )


def _stop(servers: dict[str, subprocess.Popen[bytes]]) -> None:
    for process in servers.values():
        process.terminate()
    for process in servers.values():
        try:
            process.wait(2 * _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
