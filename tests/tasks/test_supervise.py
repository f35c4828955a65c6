"""The supervisor with real processes: nothing below it outlives it, its caller, or its command."""

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

# Starts a grandchild in a session of its own, as torch's elastic agent does, and waits for it.
ELASTIC = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
time.sleep(float(sys.argv[2]))
"""
SAVES = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.5)
    pathlib.Path({saved!r}).write_text("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
pathlib.Path({ready!r}).write_text("")
time.sleep(60)
"""
DEAF = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({ready!r}).write_text("")
time.sleep(60)
"""


class Family:
    """A supervisor over a launcher over a detached trainer."""

    def __init__(self, folder: Path, trainer: str, *, grace: float = 20, alive: float = 60) -> None:
        self.ready, self.saved = folder / "ready", folder / "saved"
        script = trainer.format(ready=str(self.ready), saved=str(self.saved))
        supervise = [sys.executable, "-m", "tasks.clients.supervise", "--grace", str(grace), "--"]
        launcher = [sys.executable, "-c", ELASTIC, script, str(alive)]
        self.process = subprocess.Popen([*supervise, *launcher], start_new_session=True)
        wait_until(self.ready.exists)
        self.below = descendants(self.process.pid)

    def all_gone(self) -> bool:
        return not any(is_alive(pid) for pid in self.below)


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    before = descendants(os.getpid())  # servers that other tests use
    yield
    assert set(descendants(os.getpid())) <= set(before)


def test_sigterm_reaches_a_detached_trainer_which_saves(tmp_path: Path) -> None:
    family = Family(tmp_path, SAVES)
    assert len(family.below) == 2
    family.process.terminate()
    assert family.process.wait(timeout=20) == 128 + signal.SIGTERM
    assert family.saved.exists()
    assert family.all_gone()


def test_a_trainer_that_does_not_listen_is_killed_after_the_grace(tmp_path: Path) -> None:
    family = Family(tmp_path, DEAF, grace=0.5)
    started = time.monotonic()
    family.process.terminate()
    family.process.wait(timeout=20)
    assert time.monotonic() - started >= 0.5
    assert family.all_gone()


def test_a_trainer_whose_launcher_was_killed_is_ended_too(tmp_path: Path) -> None:
    family = Family(tmp_path, SAVES)
    os.kill(family.below[0], signal.SIGKILL)
    assert family.process.wait(timeout=20) == 128 + signal.SIGKILL
    assert family.saved.exists()
    assert family.all_gone()


def test_death_of_the_caller_ends_everything(tmp_path: Path) -> None:
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    script = SAVES.format(ready=str(ready), saved=str(saved))
    command = [sys.executable, "-m", "tasks.clients.supervise", "--"]
    command += [sys.executable, "-c", ELASTIC, script, "60"]
    start = f"import subprocess, time; subprocess.Popen({command!r}, start_new_session=True)"
    caller = subprocess.Popen([sys.executable, "-c", start + "; time.sleep(60)"])
    wait_until(ready.exists)
    below = descendants(caller.pid)
    assert len(below) == 3
    caller.kill()
    caller.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in below))
    assert saved.exists()


def test_death_of_the_callers_keeper_ends_everything_but_the_caller(tmp_path: Path) -> None:
    """A flow run's process lives on when its worker is killed, and says what happened."""
    ready, saved, told = tmp_path / "ready", tmp_path / "saved", tmp_path / "told"
    script = SAVES.format(ready=str(ready), saved=str(saved))
    engine = f"""
import os, pathlib, subprocess, sys
ids = ["--parent", str(os.getpid()), "--keeper", str(os.getppid())]
command = [sys.executable, "-m", "tasks.clients.supervise", *ids, "--", sys.executable, "-c"]
code = subprocess.Popen([*command, {ELASTIC!r}, {script!r}, "60"], start_new_session=True).wait()
pathlib.Path({str(told)!r}).write_text(str(code))
"""
    start = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
    worker = subprocess.Popen([sys.executable, "-c", f"{start}; time.sleep(60)", engine])
    wait_until(ready.exists)
    below = descendants(worker.pid)
    assert len(below) == 4
    worker.kill()
    worker.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in below))
    assert saved.exists()
    assert told.read_text() == str(128 + signal.SIGTERM)


@pytest.mark.parametrize(
    ("script", "code"),
    [("pass", 0), ("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)],
)
def test_the_commands_own_end_is_passed_on(script: str, code: int) -> None:
    command = [sys.executable, "-m", "tasks.clients.supervise", "--", sys.executable, "-c", script]
    assert subprocess.run(command, check=False).returncode == code


def test_settings_reach_the_command(tmp_path: Path) -> None:
    script = f"import os; open({str(tmp_path / 'seen')!r}, 'w').write(os.environ['COGVX_TRIED'])"
    command = [sys.executable, "-m", "tasks.clients.supervise", "--env", "COGVX_TRIED=a=b", "--"]
    assert subprocess.run([*command, sys.executable, "-c", script], check=False).returncode == 0
    assert (tmp_path / "seen").read_text() == "a=b"
