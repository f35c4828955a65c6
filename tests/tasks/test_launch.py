"""Training as the flow starts it, under accelerate: kills, orphans, processes, and errors.

Every promise here costs a start of accelerate, so one uninterrupted run serves all comparisons.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cogvx.errors import CogvxError, ConfigError, IntegrityError, TransientError
from cogvx.files import read_document, write_document
from cogvx.training.events import EventTail
from cogvx.training.lock import hold
from cogvx.training.run import RunFolder, RunSpec, TrainOutcome
from tasks.clients.launch import launch_training
from tasks.clients.supervise import descendants
from tests.training.runs import adapter_bits, make_run

RUN = {"steps": 24, "checkpoint_every": 4, "log_every": 4, "heldout_every": 100, "heldout": 1}
Event = Mapping[str, Any]


@pytest.fixture(scope="module")
def new_run(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def build(**changes: Any) -> Path:
        return make_run(tmp_path_factory.mktemp("run") / "run", nano_base, **{**RUN, **changes})

    return build


@pytest.fixture(scope="module")
def uninterrupted(new_run: Callable[..., Path]) -> tuple[Path, TrainOutcome]:
    root = new_run()
    return root, launch(root)


def launch(
    root: Path, on_event: Callable[[Event], None] = lambda _event: None, processes: int = 1
) -> TrainOutcome:
    return launch_training(root, processes=processes, on_event=on_event, log=root / "trainer.log")


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
        if words[1:3] == ["-m", "cogvx.training"] and str(root.resolve()) in words:
            found.append(int(entry.name))
    return found


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_a_run_is_followed_to_its_end_and_not_started_twice(
    uninterrupted: tuple[Path, TrainOutcome],
) -> None:
    root, outcome = uninterrupted
    assert (outcome.status, outcome.step) == ("completed", 24)
    events: list[Event] = []
    started = time.monotonic()
    assert launch(root, events.append) == outcome
    assert time.monotonic() - started < 2
    assert events == []


def test_a_trainer_killed_mid_run_goes_on_and_ends_with_the_same_bits(
    uninterrupted: tuple[Path, TrainOutcome], new_run: Callable[..., Path]
) -> None:
    root = new_run()
    before = set(descendants(os.getpid()))  # servers that other tests use

    def kill_at_the_second_checkpoint(event: Event) -> None:
        if event["kind"] == "checkpoint" and event["step"] == 8:
            (trainer,) = trainers(root)
            os.kill(trainer, signal.SIGKILL)

    told = "ended by SIGKILL, as by a machine that is out of memory; started again, it goes on from"
    with pytest.raises(TransientError, match=told) as raised:
        launch(root, kill_at_the_second_checkpoint)
    assert type(raised.value) is TransientError
    assert set(descendants(os.getpid())) <= before

    events: list[Event] = []
    outcome = launch(root, events.append)
    assert outcome.resumed_from is not None
    assert 8 <= outcome.resumed_from < 24
    assert adapter_bits(root) == adapter_bits(uninterrupted[0])
    assert [event["kind"] for event in events][:2] == ["phase", "resumed"]
    numbers = [event["step"] for event in events if event["kind"] == "metrics"]
    assert numbers == list(range(outcome.resumed_from // 4 * 4 + 4, 25, 4))


def test_a_caller_killed_mid_run_leaves_no_trainer_and_a_checkpoint(
    uninterrupted: tuple[Path, TrainOutcome], new_run: Callable[..., Path]
) -> None:
    root = new_run()
    script = (
        "import sys; from pathlib import Path; from tasks.clients.launch import launch_training\n"
        "root = Path(sys.argv[1])\n"
        "def say(event): print(event['kind'], flush=True)\n"
        "launch_training(root, processes=1, on_event=say, log=root / 'trainer.log')\n"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE, text=True
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
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), 20)
    assert trainers(root) == []
    stopped = read_document(RunFolder(root).outcome, TrainOutcome)
    assert stopped.status == "stopped"
    assert 4 <= stopped.step < 24

    outcome = launch(root)
    assert outcome.resumed_from == stopped.step
    assert adapter_bits(root) == adapter_bits(uninterrupted[0])


def test_a_second_caller_is_told_who_trains_and_the_first_ends_with_the_same_bits(
    uninterrupted: tuple[Path, TrainOutcome], new_run: Callable[..., Path]
) -> None:
    root = new_run()
    script = (
        "import sys; from pathlib import Path; from tasks.clients.launch import launch_training\n"
        "root = Path(sys.argv[1])\n"
        "launch_training(root, processes=1, on_event=print, log=root / 'second.log')\n"
    )
    second: list[subprocess.CompletedProcess[str]] = []

    def call_once_more(event: Event) -> None:
        if event["kind"] == "checkpoint" and not second:
            words = [sys.executable, "-c", script, str(root)]
            second.append(subprocess.run(words, capture_output=True, text=True, check=False))

    outcome = launch(root, call_once_more)
    assert f"Held: another process (pid {os.getpid()} on " in second[0].stderr
    assert second[0].stdout == ""
    assert not (root / "second.log").exists()
    assert (outcome.status, outcome.resumed_from) == ("completed", None)
    assert adapter_bits(root) == adapter_bits(uninterrupted[0])
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


def test_an_interrupted_call_stops_the_trainer_before_it_returns(
    new_run: Callable[..., Path],
) -> None:
    root = new_run(steps=2000)
    before = set(descendants(os.getpid()))

    def interrupt(event: Event) -> None:
        if event["kind"] == "metrics":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(root, interrupt)
    assert trainers(root) == []
    assert set(descendants(os.getpid())) <= before
    assert read_document(RunFolder(root).outcome, TrainOutcome).status == "stopped"
    assert RunFolder(root).latest.is_file()


def test_two_processes_learn_what_one_learns_from_the_joined_batch(
    uninterrupted: tuple[Path, TrainOutcome], new_run: Callable[..., Path]
) -> None:
    root = new_run(processes=2)
    outcome = launch(root, processes=2)
    whole = uninterrupted[1]
    assert outcome.train_loss == pytest.approx(whole.train_loss, rel=1e-5)
    assert outcome.heldout_after == pytest.approx(whole.heldout_after, rel=1e-5)
    both, one = (
        load_file(RunFolder(path).checkpoints / "step-00000024" / "lora.safetensors")
        for path in (root, uninterrupted[0])
    )
    # AdamW divides by the gradient's size, so rounding of tiny gradients grows in 24 updates
    for name, tensor in one.items():
        assert (both[name] - tensor).norm() < 1e-3 * tensor.norm()


def test_the_trainers_own_sentence_and_kind_come_back(
    uninterrupted: tuple[Path, TrainOutcome], new_run: Callable[..., Path]
) -> None:
    root = new_run()
    folder = RunFolder(root)
    spec = read_document(folder.spec, RunSpec)
    folder.record(spec.train[0].latents).unlink()
    with pytest.raises(IntegrityError, match=r"lacks 1 record\(s\)") as raised:
        launch(root)
    outcome = read_document(folder.outcome, TrainOutcome)
    assert str(raised.value) == outcome.error


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
