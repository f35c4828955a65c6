"""Training as the flow starts it, under accelerate: kills, orphans, processes, and errors.

Every promise here costs a start of accelerate, so one uninterrupted run serves all comparisons,
and is called a second time meanwhile.
"""

import dataclasses
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cogvx.errors import CogvxError, ConfigError, IntegrityError, TransientError
from cogvx.files import read_document, write_document
from cogvx.runs.events import EventTail, history
from cogvx.runs.folder import RunFolder, RunSpec, TrainOutcome
from cogvx.runs.lock import hold
from tasks.clients.launch import Stopped, join_training, launch_training
from tasks.clients.machines import Machines
from tasks.clients.supervise import descendants
from tests.fixtures.servers import free_port
from tests.fixtures.start import QUICK
from tests.fixtures.training_runs import adapter_bits, make_run

RUN = {"steps": 24, "checkpoint_every": 4, "log_every": 4, "heldout_every": 100, "heldout": 1}
Event = Mapping[str, Any]
PATIENCE = 120.0  # seconds on a machine that does much else; alone it takes two or three


@pytest.fixture(scope="module")
def new_run(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def build(**changes: Any) -> Path:
        return make_run(tmp_path_factory.mktemp("run") / "run", nano_base, **{**RUN, **changes})

    return build


# Calls `launch_training` as another process would, and tells the kinds of events.
CALLER = """
import sys
from pathlib import Path
from tasks.clients.launch import launch_training
root = Path(sys.argv[1])
def say(event): print(event["kind"], flush=True)
launch_training(root, processes=1, on_event=say, log=root / sys.argv[2])
"""


@dataclass(frozen=True)
class Followed:
    """A run that was followed to its end without a break, and what a second caller was told."""

    root: Path
    outcome: TrainOutcome
    second: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def uninterrupted(new_run: Callable[..., Path]) -> Followed:
    root = new_run()
    second: list[subprocess.CompletedProcess[str]] = []

    def call_once_more(event: Event) -> None:
        if event["kind"] == "checkpoint" and not second:
            words = [sys.executable, "-c", CALLER, str(root), "second.log"]
            second.append(subprocess.run(words, capture_output=True, text=True, check=False))

    outcome = launch(root, call_once_more)
    return Followed(root, outcome, *second)


def launch(
    root: Path,
    on_event: Callable[[Event], None] = lambda _event: None,
    processes: int = 1,
    **more: Any,
) -> TrainOutcome:
    log = root / "trainer.log"
    return launch_training(root, processes=processes, on_event=on_event, log=log, **more)


def trainers(root: Path) -> list[int]:
    """Living processes of this run's trainer, launchers and supervisors not counted."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        # torch starts several with python's option -u
        if words[-4:-2] == ["-m", "cogvx.training"] and words[-2] == str(root.resolve()):
            found.append(int(entry.name))
    return found


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_a_run_is_followed_to_its_end_and_not_started_twice(uninterrupted: Followed) -> None:
    root, outcome = uninterrupted.root, uninterrupted.outcome
    assert (outcome.status, outcome.step) == ("completed", 24)
    events: list[Event] = []
    printed = (root / "trainer.log").stat()
    assert launch(root, events.append) == outcome
    after = (root / "trainer.log").stat()
    assert (after.st_size, after.st_mtime_ns) == (printed.st_size, printed.st_mtime_ns)
    assert events == []


@dataclass(frozen=True)
class GoneOn:
    """A run whose trainer was killed, and that went on."""

    root: Path
    error: TransientError
    left_over: set[int]
    events: list[Event]
    outcome: TrainOutcome


@pytest.fixture(scope="module")
def killed(new_run: Callable[..., Path]) -> GoneOn:
    root = new_run()
    before = set(descendants(os.getpid()))  # servers that other tests use

    def kill_at_the_second_checkpoint(event: Event) -> None:
        if event["kind"] == "checkpoint" and event["step"] == 8:
            (trainer,) = trainers(root)
            os.kill(trainer, signal.SIGKILL)

    with pytest.raises(TransientError) as raised:
        launch(root, kill_at_the_second_checkpoint)
    left_over = set(descendants(os.getpid())) - before
    events: list[Event] = []
    return GoneOn(root, raised.value, left_over, events, launch(root, events.append))


def test_a_trainer_killed_mid_run_goes_on_and_ends_with_the_same_bits(
    uninterrupted: Followed, killed: GoneOn
) -> None:
    told = "ended by SIGKILL, as by a machine that is out of memory; started again, it goes on from"
    assert told in str(killed.error)
    assert type(killed.error) is TransientError
    assert not killed.left_over

    events, outcome = killed.events, killed.outcome
    assert outcome.resumed_from is not None
    assert 8 <= outcome.resumed_from < 24
    assert adapter_bits(killed.root) == adapter_bits(uninterrupted.root)
    assert (events[0]["kind"], events[0]["name"]) == ("phase", "loading")  # of this start only
    numbers = [event["step"] for event in events if event["kind"] == "metrics"]
    assert numbers == list(range(outcome.resumed_from // 4 * 4 + 4, 25, 4))


def test_a_caller_killed_mid_run_leaves_no_trainer_and_a_checkpoint(
    uninterrupted: Followed, new_run: Callable[..., Path]
) -> None:
    root = new_run()
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(root), "trainer.log"], stdout=subprocess.PIPE, text=True
    )
    assert caller.stdout is not None
    for line in caller.stdout:
        if line.strip() == "metrics":
            break
    below = descendants(caller.pid)
    assert len(trainers(root)) == 1
    caller.kill()
    caller.wait()
    caller.stdout.close()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), PATIENCE)
    assert trainers(root) == []
    stopped = read_document(RunFolder(root).outcome, TrainOutcome)
    assert stopped.status == "stopped"
    assert 4 <= stopped.step < 24

    outcome = launch(root)
    assert outcome.resumed_from == stopped.step
    assert adapter_bits(root) == adapter_bits(uninterrupted.root)


def test_a_second_caller_is_told_who_trains_and_the_first_ends_with_the_same_bits(
    uninterrupted: Followed, killed: GoneOn
) -> None:
    root, outcome, second = uninterrupted.root, uninterrupted.outcome, uninterrupted.second
    assert f"Held: another process (pid {os.getpid()} on " in second.stderr
    assert second.stdout == ""
    assert not (root / "second.log").exists()
    assert (outcome.status, outcome.resumed_from) == ("completed", None)
    assert adapter_bits(root) == adapter_bits(killed.root)
    phases = [e["name"] for e in EventTail(RunFolder(root).events).read() if e["kind"] == "phase"]
    assert phases == ["loading", "training", "exporting", "verifying", "completed"]


def test_a_trainer_that_nobody_here_launched_is_left_in_peace(
    new_run: Callable[..., Path],
) -> None:
    root = new_run()
    folder = RunFolder(root)
    stopped = TrainOutcome(status="stopped", step=4, steps=24)
    write_document(folder.outcome, stopped)
    with hold(folder.trainer_lock), pytest.raises(TransientError, match="is training this run"):
        launch(root)
    assert read_document(folder.outcome, TrainOutcome) == stopped
    assert not (root / "trainer.log").exists()


def test_an_interrupted_call_stops_the_trainer_before_it_returns_though_told_twice(
    new_run: Callable[..., Path],
) -> None:
    def hear(number: int, _frame: object) -> None:
        raise SystemExit(number)

    signal.signal(signal.SIGTERM, hear)
    root = new_run(steps=2000)
    before = set(descendants(os.getpid()))
    commands: list[str] = []

    def interrupt(event: Event) -> None:
        if event["kind"] == "metrics":
            below = set(descendants(os.getpid())) - before
            commands.extend(Path(f"/proc/{pid}/cmdline").read_text() for pid in below)
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(root, interrupt, grace=90.0)
    assert sum("tasks.clients.supervise" in words for words in commands) == 1
    assert sum("\0--grace\x0090.0\0" in words for words in commands) == 1
    assert trainers(root) == []
    assert set(descendants(os.getpid())) <= before
    assert read_document(RunFolder(root).outcome, TrainOutcome).status == "stopped"
    assert RunFolder(root).latest.is_file()


def log_lines(root: Path) -> list[Mapping[str, float]]:
    events = history(RunFolder(root).events)
    return [event["values"] for event in events if event["kind"] == "metrics"]


def test_two_processes_learn_what_one_learns_from_the_joined_batch(
    uninterrupted: Followed, new_run: Callable[..., Path]
) -> None:
    root = new_run(processes=2)
    outcome = launch(root, processes=2)
    whole = uninterrupted.outcome
    assert outcome.train_loss == pytest.approx(whole.train_loss, rel=1e-5)
    assert outcome.heldout_after == pytest.approx(whole.heldout_after, rel=1e-5)
    told = [log_lines(path) for path in (root, uninterrupted.root)]
    for together, alone in zip(*told, strict=True):  # losses by band, norms, rate
        assert together == pytest.approx(alone, rel=1e-3)
    both, one = (
        load_file(RunFolder(path).checkpoints / "step-00000024" / "lora.safetensors")
        for path in (root, uninterrupted.root)
    )
    # AdamW divides by the gradient's size, so rounding of tiny gradients grows in 24 updates
    for name, tensor in one.items():
        assert (both[name] - tensor).norm() < 1e-3 * tensor.norm()


def test_the_trainers_own_sentence_and_kind_come_back(
    uninterrupted: Followed, new_run: Callable[..., Path]
) -> None:
    root = new_run()
    folder = RunFolder(root)
    spec = read_document(folder.spec, RunSpec)
    folder.record(spec.train[0].latents).unlink()
    with pytest.raises(IntegrityError, match=r"lacks 1 record\(s\)") as raised:
        launch(root)
    outcome = read_document(folder.outcome, TrainOutcome)
    assert str(raised.value) == outcome.error


def test_an_error_in_another_than_the_first_process_comes_back_as_well(
    new_run: Callable[..., Path],
) -> None:
    root = new_run(processes=2, heldout=2)
    folder = RunFolder(root)
    # the second process measures the second clip, before the first update
    record = folder.record(read_document(folder.spec, RunSpec).heldout[1].latents)
    record.write_bytes(record.read_bytes()[:-4])
    with pytest.raises(IntegrityError, match=record.stem[:12]):
        launch(root, processes=2)


# Part of every process of a trainer; the one that is meant fails in its fifth update.
FAILING = """
import os
if os.environ.get("RANK") == "{rank}":
    from torch.optim.optimizer import register_optimizer_step_pre_hook
    updates = []
    def fail(*_):
        updates.append(1)
        if len(updates) == 5:
            raise RuntimeError("the fifth update cannot be done")
    register_optimizer_step_pre_hook(fail)
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_that_nobody_foresaw_comes_back_from_any_process(
    new_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    quick = (Path(QUICK) / "sitecustomize.py").read_text()  # which Python now does not find
    (tmp_path / "sitecustomize.py").write_text(quick + FAILING.format(rank=rank))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CogvxError) as raised:
        launch(new_run(processes=2), processes=2)
    assert type(raised.value) is CogvxError
    assert str(raised.value) == "RuntimeError: the fifth update cannot be done"


def rank_of(trainer: int) -> str:
    words = Path(f"/proc/{trainer}/environ").read_bytes().decode().split("\0")
    return dict(word.split("=", 1) for word in words if word)["RANK"]


def test_a_checkpoint_that_cannot_be_written_is_no_kill_from_outside(
    new_run: Callable[..., Path],
) -> None:
    root = new_run(processes=2)

    def allow_small_files(event: Event) -> None:
        if event["kind"] == "checkpoint" and event["step"] == 4:
            (first,) = (pid for pid in trainers(root) if rank_of(pid) == "0")
            room = (1 << 14, 1 << 14)
            resource.prlimit(first, resource.RLIMIT_FSIZE, room)

    with pytest.raises(CogvxError, match="File too large") as raised:
        launch(root, allow_small_files, processes=2)
    assert str(raised.value) == read_document(RunFolder(root).outcome, TrainOutcome).error


def test_one_of_several_processes_that_is_killed_is_a_kill_from_outside(
    new_run: Callable[..., Path],
) -> None:
    root = new_run(steps=2000, processes=2)

    def kill(event: Event) -> None:
        if event["kind"] == "checkpoint" and event["step"] == 4:
            (second,) = (pid for pid in trainers(root) if rank_of(pid) == "1")
            os.kill(second, signal.SIGKILL)

    with pytest.raises(TransientError, match="ended by SIGKILL") as raised:
        launch(root, kill, processes=2)
    assert type(raised.value) is TransientError


@pytest.mark.parametrize("processes", [1, 2])
def test_a_crash_is_no_kill_from_outside_and_shows_where_it_happened(
    new_run: Callable[..., Path], processes: int
) -> None:
    root = new_run(steps=2000, processes=processes)

    def crash(event: Event) -> None:
        if event["kind"] == "checkpoint" and event["step"] == 4:
            os.kill(max(trainers(root)), signal.SIGSEGV)

    with pytest.raises(CogvxError, match=r"crashed with SIGSEGV.*may crash again") as raised:
        launch(root, crash, processes=processes)
    assert type(raised.value) is CogvxError
    assert "accelerate/commands/launch.py" not in str(raised.value)
    printed = (root / "trainer.log").read_text()
    assert "Fatal Python error: Segmentation fault" in printed


def test_a_library_that_cannot_be_imported_is_named(
    new_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peft.py").write_text("raise ImportError('peft was built for another python')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(CogvxError, match="peft was built for another python"):
        launch(new_run())


class Joining(threading.Thread):
    """A second machine, which takes part in what the test's own machine leads."""

    def __init__(self, root: Path, machines: Machines) -> None:
        super().__init__()
        self.root, self.machines = root, machines
        self.error: CogvxError | None = None
        self.start()

    def run(self) -> None:
        try:
            log = self.root / "trainer.log"
            join_training(self.root, processes=2, machines=self.machines, log=log)
        except CogvxError as error:
            self.error = error


def test_machines_train_one_run_and_go_on_from_what_the_first_one_has(
    uninterrupted: Followed, new_run: Callable[..., Path]
) -> None:
    root, other = new_run(processes=2), new_run(processes=2)
    first, second = (Machines(2, rank, "127.0.0.1", free_port()) for rank in range(2))
    second = dataclasses.replace(second, port=first.port)

    def stop_there(event: Event) -> None:
        if event["kind"] == "checkpoint" and event["step"] == 8:
            (trainer,) = trainers(other)
            os.kill(trainer, signal.SIGTERM)

    joining = Joining(other, second)
    with pytest.raises(Stopped, match="asked to stop"):
        launch(root, stop_there, processes=2, machines=first)
    joining.join(PATIENCE)
    assert isinstance(joining.error, Stopped)
    assert not RunFolder(other).checkpoints.exists()
    assert not RunFolder(other).events.exists()

    joining = Joining(other, second)
    outcome = launch(root, processes=2, machines=first)
    joining.join(PATIENCE)
    assert joining.error is None
    assert outcome.resumed_from is not None
    assert 8 <= outcome.resumed_from < 24
    assert outcome.train_loss == pytest.approx(uninterrupted.outcome.train_loss, rel=1e-5)
    assert not RunFolder(other).adapter_file.exists()


def test_machines_that_cannot_meet_are_refused(new_run: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError) as raised:
        launch(new_run(), machines=Machines(2, 2, ""))
    assert "COGVX_MACHINE_RANK = 2 is no number of COGVX_MACHINES = 2; use 0 to 1" in str(
        raised.value
    )
    assert 'COGVX_MAIN_ADDRESS = "" is empty' in str(raised.value)
    assert "train.processes = 1 cannot be shared out evenly" in str(raised.value)


def test_what_is_no_run_fails_before_anything_is_started(
    new_run: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"is no run folder: it has no run\.json"):
        launch(tmp_path)
    root = new_run()
    write_document(RunFolder(root).spec, {"run": 1})
    with pytest.raises(IntegrityError, match="is not a RunSpec"):
        launch(root)
    assert not (root / "trainer.log").exists()


def test_a_trainer_that_cannot_even_start_quotes_what_it_printed(
    new_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.clients.launch._MODULE", "cogvx.training.absent")
    with pytest.raises(CogvxError, match=r"No module named cogvx\.training\.absent") as raised:
        launch(new_run())
    assert type(raised.value) is CogvxError
