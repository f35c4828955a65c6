"""The first batch is shown before training, and whatever goes wrong with it, training begins."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from cogvx.data.manifest import Manifest
from cogvx.errors import CogvxError
from cogvx.runs.folder import RunFolder
from cogvx.training.proof import ProofOrder
from tasks.clients.runs import Runs
from tasks.clients.supervise import descendants
from tasks.settings import Settings
from tasks.training.first_batch import _make_apart, show_first_batch
from tasks.workbench import Workbench
from tests.encoding.benches import clip_of
from tests.tasks.test_survey import bench

__all__ = ["bench"]

Show = Callable[[], RunFolder]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("mlflow")
    return Runs(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")


@pytest.fixture
def run_id(runs: Runs) -> str:
    return runs.start_run("looks", "training", tags={})


@pytest.fixture
def show(
    bench: Workbench, new_run: Callable[..., Path], runs: Runs, run_id: str, tmp_path: Path
) -> Show:
    """Show the first batch of a fresh run, on a CPU."""
    torch.set_num_threads(1)
    clip = clip_of(tmp_path / "clips" / "0.mp4", tmp_path / "clips")
    manifest = Manifest(dataset="toy", clips=(clip,) * 4)
    settings = Settings(home=bench.settings.home, device="cpu")

    def shown() -> RunFolder:
        folder = RunFolder(new_run())
        on_cpu = replace(bench, settings=settings)
        show_first_batch(on_cpu, folder, manifest=manifest, runs=runs, run_id=run_id)
        return folder

    return shown


def test_it_is_kept_with_the_run(show: Show, runs: Runs, run_id: str) -> None:
    assert (show().first_batch / "index.html").is_file()
    kept = MlflowClient(runs.tracking_uri).list_artifacts(run_id, "first_batch")
    assert "first_batch/index.html" in {item.path for item in kept}


def test_a_disk_that_takes_nothing_is_no_reason_not_to_train(
    show: Show, bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.work.parent.mkdir(parents=True, exist_ok=True)
    bench.work.write_text("a file where the scratch folder would be")
    assert not show().first_batch.exists()
    assert "the first batch is not shown: [Errno 20] Not a directory" in caplog.text


def test_memory_that_runs_out_on_a_cpu_is_no_reason_not_to_train(
    show: Show, caplog: pytest.LogCaptureFixture
) -> None:
    def ask_for_too_much(_module: nn.Module, _inputs: object) -> None:
        torch.empty(1 << 50)

    hook = register_module_forward_pre_hook(ask_for_too_much)
    try:
        assert not show().first_batch.exists()
    finally:
        hook.remove()
    assert "the first batch is not shown: " in caplog.text
    assert "DefaultCPUAllocator: can't allocate memory" in caplog.text


def test_much_to_decode_is_ended_when_its_time_is_over(
    show: Show, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tasks.training.first_batch._FEW_PIXELS", 0)
    monkeypatch.setattr("tasks.training.first_batch._MOST_SECONDS", 0.5)
    before, began = set(descendants(os.getpid())), time.monotonic()
    assert not show().first_batch.exists()
    assert time.monotonic() - began < 5
    assert "not shown: decoding it took longer than 0.5 s and was ended" in caplog.text
    assert set(descendants(os.getpid())) <= before


def test_a_process_that_fails_is_quoted(tmp_path: Path) -> None:
    order = ProofOrder(device="cpu", fps=8)
    with pytest.raises(
        CogvxError, match=r"^ConfigError: .* is no run folder: it has no run\.json$"
    ):
        _make_apart(RunFolder(tmp_path), order)
    assert not RunFolder(tmp_path).first_batch.exists()
