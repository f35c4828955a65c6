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
