"""The lock on a run: held once, by whoever its message names, and never by the dead."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cogvx.errors import TransientError
from cogvx.runs.lock import hold

HOLDER = """
import sys, time
from pathlib import Path
from cogvx.runs.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_another_process_is_named_and_its_death_frees_the_run(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    signed = rf"^another process \(pid {holder.pid} on {platform.node()} since 20\S+\+00:00\) is "
    with pytest.raises(TransientError, match=signed) as refusal:  # noqa: SIM117 - one statement
        with hold(path):
            pytest.fail("two held it")
    assert str(tmp_path) in str(refusal.value)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with hold(path):
        assert path.read_text().startswith(f"pid {os.getpid()} on ")


def test_the_same_process_cannot_hold_it_twice_and_may_hold_it_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for _ in range(2):
        with hold(path), pytest.raises(TransientError, match=f"pid {os.getpid()}"):
            hold(path).__enter__()
    with pytest.raises(KeyError), hold(path):
        raise KeyError
    with hold(path):
        pass
