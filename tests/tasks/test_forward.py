"""A command that ends its own processes is told first; what it leaves is ended after it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.clients.supervise import descendants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl")

# Ends half a second after it was told, and says who was told when.
RUN = """
import pathlib, signal, sys, time
def stop(*_):
    with pathlib.Path({told!r}).open("a") as file:
        file.write("run\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, {reaction})
pathlib.Path({ready!r}).write_text("")
time.sleep(60)
"""
COMMAND = """
import pathlib, signal, subprocess, sys, time
def stop(*_):
    time.sleep(0.5)
    with pathlib.Path({told!r}).open("a") as file:
        file.write("command\\n")
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
subprocess.Popen([sys.executable, "-c", {run!r}], start_new_session=True).wait()
"""


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = descendants(os.getpid())
    yield
    assert set(descendants(os.getpid())) <= set(before)


def _wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def _forward(folder: Path, *, reaction: str, grace: float) -> subprocess.Popen[bytes]:
    names = {"told": str(folder / "told"), "ready": str(folder / "ready")}
    command = COMMAND.format(run=RUN.format(reaction=reaction, **names), **names)
    forward = [sys.executable, "-m", "tasks.clients.forward", "--grace", str(grace), "--"]
    process = subprocess.Popen([*forward, sys.executable, "-c", command])
    _wait_until((folder / "ready").exists)
    return process


def test_the_command_is_told_alone_and_its_orphans_after_it(tmp_path: Path) -> None:
    process = _forward(tmp_path, reaction="stop", grace=30)
    process.terminate()
    assert process.wait(60) == 3
    assert (tmp_path / "told").read_text().split() == ["command", "run"]


def test_what_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    process = _forward(tmp_path, reaction="signal.SIG_IGN", grace=2)
    process.terminate()
    assert process.wait(60) == 3
    assert (tmp_path / "told").read_text().split() == ["command"]


def test_a_command_that_ends_by_itself_ends_all(tmp_path: Path) -> None:
    process = _forward(tmp_path, reaction="stop", grace=30)
    (command, _) = descendants(process.pid)
    os.kill(command, 9)
    assert process.wait(60) == 128 + 9
    assert (tmp_path / "told").read_text().split() == ["run"]
