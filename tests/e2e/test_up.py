"""`cogvx up` serves both pages, and leaves nothing behind, however it ends."""

import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tasks.clients.supervise import descendants
from tests.e2e.conftest import make_place
from tests.fixtures.servers import free_port


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_both_pages_are_served_until_the_end(tmp_path: Path, ending: signal.Signals) -> None:
    place = make_place(tmp_path, tmp_path / "none.toml")
    prefect, mlflow = free_port(), free_port()
    ports = ["--prefect-port", str(prefect), "--mlflow-port", str(mlflow)]
    process = subprocess.Popen(
        place.command("up", *ports),
        cwd=tmp_path,
        env=place.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = ""
    while "Ctrl-C stops both" not in said:
        line = process.stderr.readline()
        assert line, f"it ended after saying\n{said}"
        said += line
    for url in (f"http://127.0.0.1:{prefect}/api/health", f"http://127.0.0.1:{mlflow}/health"):
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.status == 200
    below = descendants(process.pid)
    assert below
    process.send_signal(ending)
    process.wait(timeout=60)
    process.stderr.close()
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in below):
        assert time.monotonic() < until, "a server outlived its command"
        time.sleep(0.2)
    assert process.returncode == (0 if ending == signal.SIGINT else -int(ending))
    assert not os.path.lexists(tmp_path / "mlruns")
