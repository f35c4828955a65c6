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

_STARTUP_SECONDS = 120
_STOP_SECONDS = 15
PREFECT_PORT = 4200
MLFLOW_PORT = 5000


def serve_until_interrupted() -> None:
    """Run both servers in the foreground; Ctrl-C or the end of either stops both.

    Raises:
        ConfigError: A server ended by itself, most often because its port is taken.
    """
    here = settings()
    here.home.mkdir(parents=True, exist_ok=True)
    servers: dict[str, subprocess.Popen[bytes]] = {}
    try:
        servers["Prefect"] = _start(
            ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(PREFECT_PORT)]
        )
        artifacts = str(here.mlflow_artifacts)
        servers["MLflow"] = _start(
            [
                "mlflow",
                "server",
                "--host",
                "127.0.0.1",
                "--port",
                str(MLFLOW_PORT),
                "--workers",
                "1",
                "--backend-store-uri",
                here.mlflow_uri,
                "--artifacts-destination",
                artifacts,
            ]
        )
        _wait_until_healthy("Prefect", f"http://127.0.0.1:{PREFECT_PORT}/api/health", servers)
        _wait_until_healthy("MLflow", f"http://127.0.0.1:{MLFLOW_PORT}/health", servers)
        logger.info("Prefect  http://127.0.0.1:%d", PREFECT_PORT)
        logger.info("MLflow   http://127.0.0.1:%d", MLFLOW_PORT)
        logger.info("Ctrl-C stops both")
        while True:
            _require_alive(servers)
            time.sleep(1)
    except KeyboardInterrupt:
        logger.info("stopping")
    finally:
        _stop(servers)


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL)


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
            raise ConfigError(f"{name}'s server ended with code {code}; is its port taken?")


def _stop(servers: dict[str, subprocess.Popen[bytes]]) -> None:
    for process in servers.values():
        process.terminate()
    for process in servers.values():
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
