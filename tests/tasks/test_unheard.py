"""A process whose parent read what it prints lives on when that parent is killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")

# Asked to end, it prints first; as Prefect does of a flow run, before it tells its server.
CHILD = """
import os, pathlib, signal, sys, time
from tasks.clients.unheard import outlive
def end(*_):
    print("ended", flush=True)
    pathlib.Path({told!r}).write_text("told")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
outlive(os.getppid())
print("ready", flush=True)
time.sleep(30)
"""
# Reads what its child prints, and is killed; whoever kills it tells the child at once.
PARENT = """
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
watch = "import os, sys, time\\nwhile os.getppid() == int(sys.argv[1]): pass\\n"
watch += "os.kill(int(sys.argv[2]), 15)"
subprocess.Popen([sys.executable, "-c", watch, str(os.getpid()), str(child.pid)])
import time; time.sleep(0.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_line_into_a_dead_workers_pipe_does_not_end_it_before_it_has_told(
    tmp_path: Path,
) -> None:
    told = tmp_path / "told"
    parent = [sys.executable, "-c", PARENT, CHILD.format(told=str(told))]
    assert subprocess.run(parent, check=False, timeout=60).returncode == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while not told.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# As a kernel and whoever killed the worker do, again and again: the second signal comes before,
# while and after the first one is heard.
CLOSELY = """
import os, signal
from tasks.clients.unheard import outlive
lost, heard, TIMES = [], [], 400
def end(*_):
    try:
        os.write(1, b"ended")
    except BrokenPipeError:
        lost.append(len(heard))
    heard.append(True)
told, tells = os.pipe()
main = os.getpid()
if os.fork() == 0:
    for number in range(TIMES):
        os.read(told, 1)
        os.kill(main, signal.SIGUSR1)
        for _ in range(number % 100):
            pass
        os.kill(main, signal.SIGTERM)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
kept = os.dup(2)
ours, theirs = os.pipe()
os.close(ours)
for number in range(TIMES):
    outlive(os.getppid())
    os.dup2(theirs, 1)
    os.write(tells, b"1")
    while len(heard) == number:
        pass
for _ in range(2):
    os.kill(os.getpid(), signal.SIGUSR1)
os.write(kept, repr(lost).encode())
os._exit(0)
"""


def test_a_signal_that_closely_follows_the_workers_death_finds_it_heard() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLOSELY], check=False, timeout=60, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "[]")
