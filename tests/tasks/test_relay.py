"""Numbers on their way to MLflow: all of them, once, and never in training's way."""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from cogvx.errors import DataError, TransientError
from cogvx.runs.events import EventTail, EventWriter, history
from cogvx.runs.folder import RunFolder
from tasks.clients.runs import Runs
from tasks.training.relay import Relay
from tasks.training.training_table import curve, training_markdown

Begin = Callable[[], tuple[str, RunFolder, EventWriter]]
VALUES = {"loss": 0.5, "epoch": 1.0, "grad_norm": 0.1}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow") / "mlflow.db"


@pytest.fixture(scope="module")
def runs(database: Path) -> Runs:
    return Runs(f"sqlite:///{database}", database.parent / "artifacts")


@pytest.fixture
def begin(runs: Runs, tmp_path: Path) -> Begin:
    """A new MLflow run, a run folder, and who writes its events."""

    def build() -> tuple[str, RunFolder, EventWriter]:
        folder = RunFolder(tmp_path)
        return runs.start_run("curves", "training", tags={}), folder, EventWriter(folder.events)

    return build


def relayed(runs: Runs, run_id: str, folder: RunFolder) -> None:
    """A relay that comes when everything is written, as after a kill."""
    with Relay(runs, run_id, folder):
        pass


def told(runs: Runs, run_id: str, name: str) -> list[tuple[int, float, int]]:
    history = MlflowClient(runs.tracking_uri).get_metric_history(run_id, name)
    return sorted((one.step, one.value, one.timestamp) for one in history)


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """A database that takes nothing, and lets whoever writes wait."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def test_ten_thousand_points_arrive_with_their_steps_times_and_values(
    runs: Runs, begin: Begin
) -> None:
    run_id, folder, writer = begin()
    for step in range(1, 401):
        values = {f"number_{number}": step + number / 100 for number in range(24)}
        writer.write("metrics", step=step, values={**values, "epoch": step / 2})
    relayed(runs, run_id, folder)
    times = [int(event["time"] * 1000) for event in EventTail(folder.events).read()]
    for number in (0, 23):
        assert told(runs, run_id, f"train/number_{number}") == [
            (step, step + number / 100, times[step - 1]) for step in range(1, 401)
        ]
    assert runs.last_steps(run_id)["train/epoch"] == 400


def test_curves_are_grouped_by_what_they_are_of(runs: Runs, begin: Begin) -> None:
    run_id, folder, writer = begin()
    writer.write("heldout", step=0, loss=1.5, by_timestep={"62": 1.0, "937": 2.0}, clips=2)
    writer.write("heldout_all", step=0, loss_all=1.25)
    writer.write("metrics", step=2, values=VALUES, system={"samples_per_second": 3.0})
    relayed(runs, run_id, folder)
    assert set(runs.last_steps(run_id)) == {
        *("train/loss", "train/epoch", "train/grad_norm", "system/samples_per_second"),
        *("heldout/loss", "heldout/loss_all", "heldout/t62", "heldout/t937"),
    }


def test_a_run_that_is_taken_up_again_shows_one_curve(runs: Runs, begin: Begin) -> None:
    run_id, folder, writer = begin()
    for step in (2, 4, 6):
        writer.write("metrics", step=step, values={**VALUES, "loss": 1 / step})
    relayed(runs, run_id, folder)
    before = told(runs, run_id, "train/loss")
    writer.write("resumed", step=2)
    for step in (4, 6, 8):
        time.sleep(0.002)
        writer.write("metrics", step=step, values={**VALUES, "loss": 1 / step})
    relayed(runs, run_id, folder)
    relayed(runs, run_id, folder)
    after = told(runs, run_id, "train/loss")
    assert after[:3] == before
    assert [(step, value) for step, value, _ in after] == [(s, 1 / s) for s in (2, 4, 6, 8)]


def test_what_arrived_though_nobody_heard_so_is_sent_again_and_there_once(
    runs: Runs, begin: Begin
) -> None:
    run_id, folder, writer = begin()
    writer.write("metrics", step=2, values=VALUES)
    (event,) = EventTail(folder.events).read()
    point = Metric("train/loss", 0.5, int(event["time"] * 1000), 2)
    MlflowClient(runs.tracking_uri).log_batch(run_id, metrics=[point])
    relayed(runs, run_id, folder)
    assert told(runs, run_id, "train/loss") == [(2, 0.5, point.timestamp)]


def test_training_does_not_wait_for_an_mlflow_that_takes_nothing(
    runs: Runs, begin: Begin, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.training.relay._SECONDS_BETWEEN_SENDS", 0.01)
    run_id, folder, writer = begin()
    with Relay(runs, run_id, folder) as relay, locked(database):
        writer.write("metrics", step=2, values=VALUES)
        time.sleep(0.2)  # the thread is in its call now
        started = time.monotonic()
        for step in range(3, 1003):
            relay({"kind": "metrics", "step": step, "values": VALUES})
            relay({"kind": "resumed", "step": step})
        assert time.monotonic() - started < 2
        writer.write("metrics", step=4, values=VALUES)
    assert [step for step, _, _ in told(runs, run_id, "train/loss")] == [2, 4]


def test_an_error_of_training_comes_before_one_of_mlflow(
    begin: Begin, runs: Runs, database: Path
) -> None:
    _, folder, writer = begin()
    writer.write("metrics", step=2, values=VALUES)
    gone = Runs(f"sqlite:///{database}")
    with pytest.raises(DataError, match="no clip"), Relay(gone, "0" * 32, folder):
        raise DataError("no clip is left")
    with pytest.raises(Exception, match="0000 not found"), Relay(gone, "0" * 32, folder):
        pass


def test_a_call_that_does_not_end_is_left_behind_with_a_sentence(
    runs: Runs, begin: Begin, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.training.relay._SECONDS_BETWEEN_SENDS", 0.01)
    monkeypatch.setattr("tasks.training.relay._SECONDS_TO_END", 0.1)
    run_id, folder, writer = begin()
    writer.write("metrics", step=2, values=VALUES)
    with (
        locked(database),
        pytest.raises(TransientError, match="go there when this is run again"),
        Relay(runs, run_id, folder),
    ):
        time.sleep(0.3)
    relayed(runs, run_id, folder)
    assert [step for step, _, _ in told(runs, run_id, "train/loss")] == [2]


def test_the_table_shows_the_first_the_best_and_the_newest_held_out_losses(
    begin: Begin,
) -> None:
    _, folder, writer = begin()
    assert training_markdown(history(folder.events)) == ""
    for step in range(0, 300, 10):
        loss = 1.0 + abs(step - 50) / 100
        writer.write("heldout", step=step, loss=loss, clips=2, by_timestep={"62": loss, "187": 2.0})
    running = {"loss_t000_124_running": 0.25, "loss_t875_999_running": 0.75}
    writer.write("metrics", step=290, values={**VALUES, **running}, system={"mfu": 0.41})
    lines = training_markdown(history(folder.events)).splitlines()
    assert lines[2] == "| step | loss | t = 62 | t = 187 |"
    assert lines[4].startswith("| 0 | 1.5000 | 1.5 | 2 |")
    assert lines[5].startswith("| 50 (best) | 1.0000 |")
    assert lines[-len(lines) + 25].startswith("| 290 | 3.4000 |")
    assert "| gradient norm | 0.1 | `▁` |" in lines
    assert "| share of the device's peak (MFU) | 0.41 | `▁` |" in lines
    assert "| 875 to 999 | 0.75 | 0.75 | `▁` |" in lines


def test_a_curve_is_drawn_between_its_least_and_its_greatest() -> None:
    assert curve([]) == ""
    assert curve([1.0, 2.0, 8.0]) == "▁▂█"
    assert curve([3.0] * 100) == "▁" * 32
    assert curve(list(map(float, range(64)))) == curve([2 * n + 0.5 for n in range(32)])


def test_what_a_person_should_hear_of_is_said(
    begin: Begin, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    run_id, folder, _ = begin()
    skipped = {"step": 9, "updates": [{"step": 8, "reason": "the loss is nan"}], "total": 3}
    with (
        caplog.at_level(logging.INFO, "tasks.training.relay"),
        Relay(runs, run_id, folder) as relay,
    ):
        relay({"kind": "phase", "name": "training"})
        relay({"kind": "skipped", **skipped, "in_a_row": 1})
        relay({"kind": "heldout", "step": 9, "loss": 0.25, "clips": 2, "by_timestep": {}})
        relay({"kind": "checkpoint", "step": 9, "folder": "step-00000009"})
    said = [(record.levelname, record.message) for record in caplog.records]
    assert said == [
        ("INFO", "trainer: training"),
        ("WARNING", "step 9: 3 update(s) skipped so far, 1 in a row; the loss is nan"),
        ("INFO", "step 9: held-out loss 0.2500 over 2 clip(s)"),
    ]
