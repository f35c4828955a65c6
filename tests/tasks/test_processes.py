"""A process is known by its number and birth, and what does not stop when asked is killed."""

import os
import signal
import socket
import subprocess
import sys

from tasks.clients.processes import Mark, end, listener, me
from tasks.clients.supervise import descendants

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); "
WAIT = "import time; time.sleep(600)"


def started(program: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    if program.startswith(STUBBORN):
        assert process.stdout is not None
        process.stdout.readline()
    return process


def test_a_stranger_with_the_same_number_is_not_found() -> None:
    mine = me()
    assert mine.lives
    assert not mine.model_copy(update={"born": "another time"}).lives
    assert Mark.model_validate_json(mine.model_dump_json()) == mine


def test_one_that_ended_does_not_live_though_nobody_has_waited_for_it() -> None:
    process = started("")
    mark = Mark.of(process.pid)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert Mark.of(process.pid) is None
    assert mark is None or not mark.lives
    process.communicate()


def test_who_stops_is_not_killed_and_who_does_not_is() -> None:
    polite, stubborn = started(WAIT), started(STUBBORN + WAIT)
    marks = [mark for each in (polite, stubborn) if (mark := Mark.of(each.pid))]
    killed = end(marks, grace=1.0)
    assert [mark.pid for mark in killed] == [stubborn.pid]
    assert polite.wait() == -signal.SIGTERM
    assert stubborn.wait() == -signal.SIGKILL
    for each in (polite, stubborn):
        each.communicate()


def test_what_was_killed_has_ended_with_all_below_it() -> None:
    """A process that held much memory takes a while to die."""
    child = "import time; held = b'x' * (200 << 20); print(flush=True); time.sleep(600)"
    parent = STUBBORN.replace("print(flush=True); ", "") + (
        "import subprocess, sys; "
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); held = b'x' * (200 << 20); {WAIT}"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    family = [Mark.of(pid) for pid in (process.pid, *descendants(process.pid))]
    assert len(family) == 2
    end([mark for mark in family[:1] if mark], grace=0.0)
    assert not [mark for mark in family if mark and mark.lives]
    process.communicate()


def test_nobody_waits_for_grace_who_insists() -> None:
    stubborn = started(STUBBORN + WAIT)
    mark = Mark.of(stubborn.pid)
    assert mark is not None
    assert end([mark], grace=600.0, insists=lambda: True) == [mark]
    assert stubborn.wait() == -signal.SIGKILL
    stubborn.communicate()


def test_who_listens_on_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = listener(port)
        assert found is not None
        assert found.pid == os.getpid()
    assert listener(port) is None
