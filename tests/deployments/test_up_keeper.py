"""A keeper starts small programs, sees them die, starts them again, and leaves none behind."""

import ctypes
import logging
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cogvx.errors import ConfigError
from deployments.up import keeper as up_keeper
from deployments.up.follow import Follower
from deployments.up.keeper import Asked, Keeper
from deployments.up.logs import older
from deployments.up.state import Desk, UpState, now
from tasks.clients.processes import Mark, me
from tasks.clients.servers import LOG_BYTES, Service, answers
from tasks.clients.supervise import descendants
from tests.fixtures.servers import free_port

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.folder.mkdir()
    return desk


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process, with one of its own, that was here before any keeper."""
    with subprocess.Popen(["sh", "-c", "sleep 600 & wait"]) as process:
        yield process
        for pid in (*descendants(process.pid), process.pid):
            os.kill(pid, signal.SIGKILL)


def starting(desk: Desk) -> UpState:
    return UpState(
        keeper=me(),
        since=now(),
        phase="starting",
        home=desk.folder,
        folder=desk.folder,
        catalog=desk.folder,
        prefect="",
        mlflow="",
        environment={},
    )


@pytest.fixture
def keeper(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    """This process keeps; afterwards it is as it was, for the tests that follow."""
    monkeypatch.setattr(up_keeper, "PAUSES", (0.1, 0.2))
    before = [signal.getsignal(number) for number in SIGNALS]
    keeper = Keeper(desk, starting(desk))
    try:
        with desk.held(), keeper.closing():
            yield keeper
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@contextmanager
def too_small_files() -> Iterator[None]:
    """No file of this process may have bytes: writing fails, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def serving(port: int) -> Service:
    """A server that answers."""
    arguments = ("--bind", "127.0.0.1", str(port))
    url = f"http://127.0.0.1:{port}/"
    return Service("pages", "the pages", "http.server", arguments, health=url, grace=5.0)


def wait_for(holds: Callable[[], object], turn: Callable[[], object] = lambda: None) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        turn()
        time.sleep(0.05)


def processes(desk: Desk) -> list[Mark]:
    state = desk.read()
    assert state is not None
    return list(state.services[0].processes)


def test_what_was_there_before_it_is_spared(
    bystander: subprocess.Popen[bytes], keeper: Keeper
) -> None:
    wait_for(lambda: descendants(bystander.pid))
    keeper.stop(lambda _: True)
    assert bystander.poll() is None
    assert descendants(bystander.pid)


def test_what_it_started_is_written_down_and_ends_with_it(desk: Desk, keeper: Keeper) -> None:
    service = serving(free_port())
    with keeper.closing():
        keeper.start([service])
        keeper.wait("pages", lambda: answers(service.health))
        marks = processes(desk)
        assert len(marks) == 2
        assert all(mark.lives for mark in marks)
        assert "pages.log" in str(desk.read())
    assert desk.read() is None
    assert not any(mark.lives for mark in marks)


def test_one_that_dies_is_started_again_and_at_last_given_up(
    desk: Desk, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "deployments")
    service = serving(free_port())
    keeper.start([service])
    keeper.wait("pages", lambda: answers(service.health))
    for start in (2, 3):
        os.kill(processes(desk)[1].pid, signal.SIGKILL)
        wait_for(lambda start=start: desk.read().services[0].starts == start, keeper.tend)
        wait_for(lambda: answers(service.health), keeper.tend)
        wait_for(lambda: len(processes(desk)) == 2, keeper.tend)
    os.kill(processes(desk)[1].pid, signal.SIGKILL)
    wait_for(lambda: desk.read().services[0].status == "given up", keeper.tend)
    assert keeper.tend() == []
    assert sum("is started again" in line for line in caplog.messages) == 2
    assert "died 3 times and is given up" in caplog.text


def test_what_lost_its_supervisor_is_ended_before_another_is_started(
    desk: Desk, keeper: Keeper
) -> None:
    service = serving(free_port())
    keeper.start([service])
    keeper.wait("pages", lambda: answers(service.health))
    supervisor, server = processes(desk)
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_for(lambda: desk.read().services[0].starts == 2, keeper.tend)
    assert not server.lives
    wait_for(lambda: answers(service.health), keeper.tend)


def test_one_that_does_not_start_is_told_with_its_last_words(keeper: Keeper) -> None:
    service = Service("odd", "the odd one", "http.server", ("no-port",), grace=5.0)
    keeper.start([service])
    with pytest.raises(ConfigError, match=r"(?s)the odd one ended with code 2.*invalid int value"):
        keeper.wait("odd", lambda: False)


def test_what_ends_by_itself_hands_over_its_lines_or_its_fault(keeper: Keeper) -> None:
    hello = Service("hello", "hello", "this", (), must_stay=False)
    assert "Beautiful is better than ugly." in keeper.finish(hello)
    wrong = Service("wrong", "the wrong one", "no_such_module", (), must_stay=False)
    with pytest.raises(ConfigError, match=r"(?s)the wrong one ended with code 1.*no_such_module"):
        keeper.finish(wrong)


def test_who_is_asked_to_stop_waits_for_nothing_more(keeper: Keeper) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Asked):
        keeper.pause(60)


def test_it_stops_when_its_home_is_removed(desk: Desk, keeper: Keeper) -> None:
    assert keeper.tend() == []
    shutil.rmtree(desk.folder)
    with pytest.raises(Asked):
        keeper.tend()


def test_a_disk_that_is_full_ends_no_service(
    desk: Desk, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    service = serving(free_port())
    keeper.start([service])
    keeper.wait("pages", lambda: answers(service.health))
    before = desk.read()
    with too_small_files():
        keeper.enter("up")
        keeper.enter("up")
        assert keeper.tend() == []
    assert answers(service.health)
    assert desk.read() == before
    assert sum("cannot be written" in line for line in caplog.messages) == 1
    keeper.enter("up")
    assert "up" in str(desk.read().phase)


def test_a_disk_that_is_full_at_the_start_refuses(keeper: Keeper, tmp_path: Path) -> None:
    desk = Desk(tmp_path / "other")
    desk.folder.mkdir(parents=True)
    with too_small_files(), pytest.raises(OSError, match="File too large"):
        Keeper(desk, starting(desk))


def test_a_log_that_cannot_be_cut_is_told_once_and_cut_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, own = tmp_path / "worker.log", tmp_path / "up.log"
    log.write_bytes(b"x" * (LOG_BYTES + 1))
    follower = Follower("", {"worker": log}, own)
    with too_small_files():
        follower.tell_logs()
        follower.tell_logs()
    assert sum("cannot be read or cut" in line for line in caplog.messages) == 1
    assert log.stat().st_size == LOG_BYTES + 1
    assert not older(log).exists()
    follower.tell_logs()
    assert (log.stat().st_size, older(log).stat().st_size) == (0, LOG_BYTES + 1)


def test_a_second_ctrl_c_does_not_wait_for_one_that_does_not_stop(
    desk: Desk, keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bystanders = set(descendants(os.getpid()))  # servers that other tests use
    (tmp_path / "stubborn.py").write_text(
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open('" + str(tmp_path / "ready") + "', 'w')\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    keeper.start([Service("stubborn", "the stubborn one", "stubborn", (), grace=600.0)])
    keeper.wait("stubborn", (tmp_path / "ready").exists)
    os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    began = time.monotonic()
    keeper.stop(lambda _: True)
    assert time.monotonic() - began < 60
    assert set(descendants(os.getpid())) <= bystanders
