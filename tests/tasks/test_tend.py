"""A worker is stopped by its tender with real processes: its runs end first, and well."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.clients.supervise import descendants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl")

# As Prefect's: starts runs as long as it may, and kills them at once when it is told to stop.
WORKER = """
import pathlib, signal, subprocess, sys, time
run = None
def stop(*_):
    run.kill()
    pathlib.Path({told!r}).write_text(str(run.poll()))
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
for n in range(1000):
    run = subprocess.Popen([sys.executable, "-c", {run!r}, str(n)], start_new_session=True)
    run.wait()
"""
RUN = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.5)
    pathlib.Path({saved!r}).write_text(sys.argv[1])
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
pathlib.Path({ready!r}).write_text("")
time.sleep(60)
"""
DEAF = RUN.replace("signal.SIGTERM, save", "signal.SIGTERM, signal.SIG_IGN")


class Tended:
    """A tender over a worker over a run in a session of its own."""

    def __init__(self, folder: Path, run: str, *, grace: float = 20) -> None:
        self.ready, self.saved, self.told = folder / "ready", folder / "saved", folder / "told"
        script = run.format(ready=str(self.ready), saved=str(self.saved))
        worker = WORKER.format(told=str(self.told), run=script)
        tend = [sys.executable, "-m", "tasks.clients.tend", "--grace", str(grace), "--"]
        self.process = subprocess.Popen([*tend, sys.executable, "-c", worker])
        wait_until(self.ready.exists)
        self.worker, self.run = descendants(self.process.pid)


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = descendants(os.getpid())
    yield
    assert set(descendants(os.getpid())) <= set(before)


def test_runs_end_well_before_the_worker_is_told_and_no_other_begins(tmp_path: Path) -> None:
    tended = Tended(tmp_path, RUN)
    tended.process.terminate()
    assert tended.process.wait(20) == 0
    assert tended.saved.read_text() == "0"
    assert tended.told.is_file()


def test_a_run_that_does_not_end_is_killed_with_its_worker(tmp_path: Path) -> None:
    tended = Tended(tmp_path, DEAF, grace=0.5)
    tended.process.terminate()
    assert tended.process.wait(20) == 128 + signal.SIGKILL
    assert not tended.told.exists()


def test_what_a_killed_worker_leaves_behind_is_ended(tmp_path: Path) -> None:
    tended = Tended(tmp_path, RUN)
    os.kill(tended.worker, signal.SIGKILL)
    assert tended.process.wait(20) == 128 + signal.SIGKILL
    assert tended.saved.read_text() == "0"


def test_a_worker_that_ends_by_itself_ends_its_tender(tmp_path: Path) -> None:
    tend = [sys.executable, "-m", "tasks.clients.tend", "--env", "SAID=7", "--"]
    said = "import os, sys; sys.exit(int(os.environ['SAID']))"
    assert subprocess.run([*tend, sys.executable, "-c", said], check=False).returncode == 7
