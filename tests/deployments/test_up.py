"""What `cogvx up` starts, refuses and tells, decided without starting anything."""

import json
import os
import shlex
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cogvx.errors import ConfigError, IntegrityError
from deployments.catalog import CATALOG
from deployments.up.catalog import as_last_named
from deployments.up.checks import require_possible, require_same
from deployments.up.logs import LogTail, older
from deployments.up.services import (
    Options,
    PoolPlan,
    deploying,
    mlflow_pages,
    servers,
    shared_environment,
    workers,
)
from deployments.up.state import Desk, ServiceState, UpState, now
from tasks.clients import gpus as machine
from tasks.clients.processes import Mark, me
from tasks.settings import Settings, settings
from tests.fixtures.servers import free_port
from tests.fixtures.start import PYTHONPATH

POOLS = [PoolPlan("cpu"), PoolPlan("gpu-train", gpus=1), PoolPlan("gpu-eval", gpus=1)]


def options(**chosen: int) -> Options:
    ports = {"prefect_port": free_port(), "mlflow_port": free_port()}
    return Options(Path("catalog.toml"), **{**ports, **chosen})


def here(tmp_path: Path, **given: str) -> Settings:
    return Settings(_env_file=None, home=tmp_path, **given)  # type: ignore[call-arg, arg-type]


# Workers


def test_each_gpu_has_a_worker_of_each_pool_that_takes_turns_with_the_others() -> None:
    found = workers(POOLS, ["0", "1"], {}, with_slots=True)
    assert [one.name for one in found] == [
        *("worker-cpu", "worker-gpu-train-0", "worker-gpu-train-1"),
        *("worker-gpu-eval-0", "worker-gpu-eval-1"),
    ]
    cpu, first, second = found[:3]
    assert "CUDA_VISIBLE_DEVICES" not in cpu.environment
    assert "--limit" not in cpu.arguments
    assert first.arguments[-2:] == ("--limit", "1")
    assert first.environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert first.environment["COGVX_GPU_SLOTS"] == "up-gpu-0"
    assert second.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert found[3].environment["COGVX_GPU_SLOTS"] == first.environment["COGVX_GPU_SLOTS"]


def test_a_pool_that_trains_on_several_gpus_makes_groups_of_them_for_all() -> None:
    pools = [PoolPlan("gpu-train", gpus=2), PoolPlan("gpu-eval", gpus=1)]
    found = workers(pools, ["0", "1", "2", "3", "4"], {}, with_slots=True)
    assert [one.gpus for one in found] == ["0,1", "2,3", "0,1", "2,3"]
    assert [one.gpus for one in workers(pools, ["7"], {}, with_slots=True)] == ["7", "7"]


def test_without_gpus_a_pool_has_one_worker_with_one_run() -> None:
    found = workers(POOLS, [], {}, with_slots=True)
    assert [one.name for one in found] == ["worker-cpu", "worker-gpu-train", "worker-gpu-eval"]
    assert all("COGVX_GPU_SLOTS" not in one.environment for one in found)
    assert found[1].arguments[-2:] == ("--limit", "1")


def test_slots_that_a_person_set_are_left() -> None:
    found = workers(POOLS, ["0"], {}, with_slots=False)
    assert all("COGVX_GPU_SLOTS" not in one.environment for one in found)


# GPUs


def nvidia_smi(folder: Path, says: str) -> None:
    file = folder / "nvidia-smi"
    file.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("visible", "device", "found"),
    [
        (None, "auto", ("0", "1")),
        ("1", "auto", ("1",)),
        ("", "auto", ()),
        (None, "cpu", ()),
    ],
)
def test_gpus_are_counted_by_the_driver_and_left_to_whoever_chose(
    visible: str | None,
    device: str,
    found: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nvidia_smi(tmp_path, "GPU 0: NVIDIA H200 (UUID: GPU-1)\nGPU 1: NVIDIA H200 (UUID: GPU-2)")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("COGVX_DEVICE", device)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    settings.cache_clear()
    assert machine.gpus() == found
    settings.cache_clear()


# What stands in the way


def test_all_that_stands_in_the_way_is_told_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            require_possible(
                options(prefect_port=taken, mlflow_port=taken),
                here(tmp_path),
                "http://me:secret@prefect.example:4200/api",
            )
    said = str(caught.value)
    assert "PREFECT_API_URL" in said
    assert "names another server" in said
    assert "secret" not in said
    assert f"--prefect-port = {taken} is the port of two servers" in said


def test_a_port_that_is_taken_is_told_with_its_holder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--mlflow-port = {taken} is taken by process \d+"):
            require_possible(options(mlflow_port=taken), here(tmp_path), None)


def test_an_mlflow_elsewhere_has_to_answer(tmp_path: Path) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=r"COGVX_TRACKING_URI.*does not answer"):
        require_possible(options(), here(tmp_path, tracking_uri=away), None)


def test_a_store_that_is_set_is_not_replaced_by_one_in_memory(tmp_path: Path) -> None:
    chosen = Options(Path("c.toml"), free_port(), free_port(), free_port(), with_s3=True)
    with pytest.raises(ConfigError, match=r"COGVX_STORE_URL.*leave --s3 out"):
        require_possible(chosen, here(tmp_path, store_url="s3://real/store"), None)


def test_a_shell_that_took_over_what_status_says_can_start_it_again(tmp_path: Path) -> None:
    chosen = Options(Path("c.toml"), free_port(), free_port(), free_port(), with_s3=True)
    given = shared_environment(chosen, here(tmp_path))
    again = here(
        tmp_path,
        tracking_uri=given["COGVX_TRACKING_URI"],
        store_url=given["COGVX_STORE_URL"],
        s3_endpoint_url=given["COGVX_S3_ENDPOINT_URL"],
    )
    require_possible(chosen, again, given["PREFECT_API_URL"])
    assert servers(chosen, again) == servers(chosen, here(tmp_path))
    assert shared_environment(chosen, again) == given


def test_an_mlflow_elsewhere_is_used_and_none_is_started(tmp_path: Path) -> None:
    away = here(tmp_path, tracking_uri="https://mlflow.example")
    assert [one.name for one in servers(options(), away)] == ["prefect"]
    assert "COGVX_TRACKING_URI" not in shared_environment(options(), away)  # workers inherit it


def test_a_password_is_neither_shown_nor_given_to_whoever_lists_processes(tmp_path: Path) -> None:
    away = here(tmp_path, tracking_uri="https://me:secret@mlflow.example/")
    assert mlflow_pages(options(), away) == "https://mlflow.example"
    given = shared_environment(options(), away)
    started = [*servers(options(), away), *workers(POOLS, ["0"], given, with_slots=True)]
    assert "secret" not in repr(started)
    database = here(tmp_path, tracking_uri="postgresql://me:secret@database.example/mlflow")
    with pytest.raises(ConfigError, match="COGVX_TRACKING_URI names a database") as caught:
        require_possible(options(), database, None)
    assert "secret" not in str(caught.value)


# Which catalog


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.folder.mkdir()
    return desk


def test_a_plain_up_means_the_catalog_that_the_last_one_here_named(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "deployments")
    first = as_last_named(Options(CATALOG, 4300), desk, named=frozenset())
    assert (first, caplog.text) == (Options(CATALOG, 4300, is_chosen=False), "")
    team = desk.folder / "our night.toml"
    team.touch()
    desk.remember(team)
    again = as_last_named(Options(CATALOG, 4300), desk, named=frozenset({"prefect_port"}))
    assert again == Options(team, 4300)
    (line,) = caplog.messages
    assert line == f"catalog   {team}, as the last `cogvx up` here; for another: --catalog FILE"
    other = Options(Path("soon.toml"))
    assert as_last_named(other, desk, named=frozenset({"catalog"})) == other
    team.unlink()
    with pytest.raises(ConfigError, match=r"our night\.toml, which is not there; name one"):
        as_last_named(Options(CATALOG), desk, named=frozenset())


def test_a_catalog_that_nobody_named_removes_nothing(tmp_path: Path) -> None:
    chosen = deploying(Options(CATALOG), {})
    assert chosen.arguments[-2:] == ("--catalog", str(CATALOG))
    assert "--catalog" not in deploying(Options(CATALOG, is_chosen=False), {}).arguments


def test_who_is_told_to_start_it_again_is_told_with_which_catalog(desk: Desk) -> None:
    assert desk.command == "cogvx up"
    team = desk.folder / "our night.toml"
    desk.remember(team)
    assert desk.command == f"cogvx up --catalog {shlex.quote(str(team))}"


# What runs already


def running(tmp_path: Path, chosen: Options) -> UpState:
    found = servers(chosen, here(tmp_path))
    services = [
        ServiceState(
            name=one.name,
            title=one.title,
            status="running",
            since=now(),
            starts=1,
            processes=(),
            log=tmp_path,
            grace=1,
        )
        for one in found
    ]
    return UpState(
        keeper=me(),
        since=now(),
        phase="up",
        home=tmp_path,
        folder=tmp_path,
        catalog=chosen.catalog.resolve(),
        prefect=chosen.prefect,
        mlflow=chosen.mlflow,
        s3=chosen.s3,
        environment={},
        services=tuple(services),
    )


def command(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deployments.cli", *words],
        cwd=tmp_path,
        env={**os.environ, "COGVX_HOME": str(tmp_path), "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("catalog", r"runs with --catalog \S+/demo.toml, not \S+/soon.toml; stop it first with"),
        ("prefect_port", "runs with Prefect at http://127.0.0.1:4200, not http://127.0.0.1:4300;"),
        ("mlflow_port", "runs with MLflow at http://127.0.0.1:5000, not http://127.0.0.1:5100;"),
        ("s3", "runs with S3 at no address, not http://127.0.0.1:9000;"),
    ],
)
def test_what_a_running_up_would_ignore_is_refused(named: str, said: str, tmp_path: Path) -> None:
    state = running(tmp_path, Options(Path("demo.toml")))
    wanted = Options(Path("soon.toml"), 4300, 5100, with_s3=True)
    with pytest.raises(ConfigError, match=said):
        require_same(state, wanted, frozenset({named}))
    require_same(state, wanted, frozenset())
    require_same(state, Options(Path("demo.toml")), frozenset({named}))


def test_a_second_up_with_another_catalog_ends_with_a_sentence(tmp_path: Path) -> None:
    Desk(tmp_path).folder.mkdir()
    Desk(tmp_path).write(running(tmp_path, Options(Path("demo.toml"), 4300)))
    done = command(tmp_path, "up", "--catalog", "soon.toml")
    assert done.returncode == 2, done.stderr
    assert "demo.toml, not" in done.stderr
    assert "4300" not in done.stderr  # nobody asked for another port
    assert "well" not in done.stdout


@pytest.mark.parametrize("was_killed", [True, False])
def test_nobody_is_sent_to_servers_of_an_up_that_is_not_there(
    was_killed: bool, desk: Desk, tmp_path: Path
) -> None:
    desk.remember(Path("/of/ours.toml"))
    if was_killed:
        with subprocess.Popen(["sleep", "600"]) as keeper:
            gone = Mark.of(keeper.pid)
            keeper.kill()
        state = running(tmp_path, Options(Path("demo.toml")))
        desk.write(
            state.model_copy(update={"keeper": gone, "environment": {"PREFECT_API_URL": "old"}})
        )
    done = command(tmp_path, "status", "--env")
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""  # a shell evaluates it
    assert f"nothing is up for {tmp_path}" in done.stderr
    assert "`cogvx up --catalog /of/ours.toml` starts it" in done.stderr
    assert ("was killed" in done.stderr) == was_killed


# What was written down by another version, or damaged


def rewritten(desk: Desk, **fields: object) -> None:
    """The state as a version would write it that has other fields; None is one that it has not."""
    desk.write(running(desk.folder, Options(Path("demo.toml"))))
    file = desk.folder / "state.json"
    document = {**json.loads(file.read_bytes()), **fields}
    known = {name: value for name, value in document.items() if value is not None}
    file.write_text(json.dumps(known))


def test_fields_of_a_later_version_are_no_reason_to_find_nothing(desk: Desk) -> None:
    rewritten(desk, owner="team")
    state = desk.read()
    assert state is not None
    assert state.is_kept


def test_a_state_that_nobody_can_read_is_told_with_what_to_do(desk: Desk) -> None:
    file = desk.folder / "state.json"
    pid = os.getpid()
    rewritten(desk, prefect=None)
    nobody = (
        rf"{file} is damaged, or of another version.*nobody is at work.*remove it: `rm {file}`$"
    )
    with pytest.raises(IntegrityError, match=nobody) as caught:
        desk.read()
    assert "\n" not in str(caught.value)
    with desk.held():
        kept = rf"and its `up` still runs: end that first, `kill {pid}`; it takes the file along$"
        with pytest.raises(IntegrityError, match=kept):
            desk.read()
        file.write_text('{"keep')
        unknown = rf"first, the process that holds {desk.folder}/lock \(see `lslocks`\); it takes"
        with pytest.raises(IntegrityError, match=unknown):
            desk.read()
    done = command(desk.folder.parent, "status")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    assert f"rm {file}" in done.stderr


# Logs


def test_a_person_sees_warnings_once_and_whole(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("12:00 | ERROR | of an earlier start\n")
    tail = LogTail(log)
    with log.open("a") as file:
        file.write("12:01 | INFO | nothing\n12:01 | WARNING | half of")
        file.flush()
        assert tail.important() == []
        file.write(" a line\n")
    assert tail.important() == ["12:01 | WARNING | half of a line"]
    assert tail.important() == []


def test_a_log_keeps_its_bound_while_somebody_writes(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    tail = LogTail(log, most_bytes=1000)
    with log.open("ab", buffering=0) as writer:
        for number in range(100):
            writer.write(f"{number} ERROR {'x' * 40}\n".encode())
            tail.important()
            tail.bound()
    assert log.stat().st_size <= 1100
    assert older(log).stat().st_size <= 1100
    assert log.read_text().splitlines()[-1].startswith("99 ERROR")


def test_many_lines_at_once_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    tail = LogTail(log)
    log.write_text("an ERROR\n" * 50)
    told = tail.important()
    assert len(told) == 6
    assert "45 more" in told[-1]
