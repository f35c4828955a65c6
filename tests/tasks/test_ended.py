"""How an MLflow run ends: as training did, and never in the way of training's own error."""

import logging
import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cogvx.errors import ConfigError, TrainingDiverged, TransientError
from cogvx.runs.events import EventWriter
from cogvx.runs.folder import RunFolder
from cogvx.runs.lock import Held
from tasks.clients.launch import Stopped
from tasks.clients.runs import Runs
from tasks.ended import ending
from tasks.training.relay import Relay
from tests.fixtures.servers import mlflow_server

ERRORS = (
    TrainingDiverged("the loss is nan"),
    ConfigError("the GPU ran out of memory; use fewer frames"),
    Stopped("training was asked to stop"),
    Held("another process is training this run"),
    KeyboardInterrupt(),
    SystemExit(143),
)
ENDS = dict(
    zip(
        map(type, ERRORS),
        ("FAILED", "FAILED", "KILLED", "RUNNING", "KILLED", "KILLED"),
        strict=True,
    )
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("mlflow")
    return Runs(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")


def status_of(runs: Runs, run_id: str) -> str:
    status: str = MlflowClient(runs.tracking_uri).get_run(run_id).info.status
    return status


def fail(runs: Runs, run_id: str, error: BaseException) -> None:
    with ending(runs, run_id):
        raise error


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_run_ends_as_training_does_whose_error_goes_on(
    runs: Runs, error: BaseException
) -> None:
    run_id = runs.start_run("ends", "training", tags={})
    with pytest.raises(type(error)) as raised:
        fail(runs, run_id, error)
    assert raised.value is error
    assert status_of(runs, run_id) == ENDS[type(error)]


def test_a_run_that_went_well_is_finished(runs: Runs) -> None:
    run_id = runs.start_run("ends", "training", tags={})
    with ending(runs, run_id):
        assert status_of(runs, run_id) == "RUNNING"
    assert status_of(runs, run_id) == "FINISHED"


def test_a_server_that_stopped_meanwhile_hides_no_error_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = RunFolder(tmp_path)
    with mlflow_server(tmp_path) as url:
        runs = Runs(url)
        run_id = runs.start_run("ends", "training", tags={})
    EventWriter(folder.events).write("metrics", step=2, values={"loss": 0.5})

    def train(error: BaseException) -> None:
        with ending(runs, run_id), Relay(runs, run_id, folder):
            raise error

    for error in ERRORS:
        caplog.clear()
        with pytest.raises(type(error)) as raised:
            train(error)
        assert raised.value is error
        said = [record.levelname for record in caplog.records if "not marked" in record.message]
        assert said == ([] if isinstance(error, Held) else ["WARNING"])
    with pytest.raises(TransientError, match="could not end a run"), ending(runs, run_id):
        pass


def test_a_server_that_says_nothing_is_not_waited_for(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tasks.ended._SECONDS_TO_FAIL", 0.3)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setattr(
            runs, "_client", MlflowClient(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        )
        with caplog.at_level(logging.WARNING), pytest.raises(TrainingDiverged):
            fail(runs, "0" * 32, TrainingDiverged("the loss is nan"))
    assert "MLflow has not answered for 0 s" in caplog.text
