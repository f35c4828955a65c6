"""GPUs against processes, on a machine whose driver lists four; ranks of machines and of pods."""

import logging
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvx.errors import ConfigError
from tasks.clients.machines import Machines, machine_tags, require_gpus
from tasks.settings import Settings, settings

ALONE, PAIR = Machines(), Machines(2, 0, "first")
LISTED = "".join(f"GPU {n}: NVIDIA H100 80GB HBM3 (UUID: GPU-{n})\\n" for n in range(4))


@pytest.fixture
def four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{LISTED}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("COGVX_DEVICE", "auto")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    settings.cache_clear()
    yield monkeypatch
    settings.cache_clear()


def test_every_gpu_that_a_worker_leaves_may_be_used(four: pytest.MonkeyPatch) -> None:
    require_gpus(Settings(), ALONE, 4)
    require_gpus(Settings(), PAIR, 8)
    assert machine_tags(PAIR) == {
        "cogvx.machine": platform.node(),
        "cogvx.gpus": "0,1,2,3",
        "cogvx.machines": "2",
    }
    four.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert machine_tags(ALONE)["cogvx.gpus"] == "2,3"


def test_fewer_gpus_than_processes_are_refused_with_what_fits(four: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"needs 8 GPU\(s\) on .*, where 4 may be used; use 4"):
        require_gpus(Settings(), ALONE, 8)
    four.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    said = r'2 may be used, as CUDA_VISIBLE_DEVICES = "2,3" says; use 4, or give its worker more'
    with pytest.raises(ConfigError, match=said):
        require_gpus(Settings(), PAIR, 8)


def test_idle_gpus_are_told(four: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tasks")
    require_gpus(Settings(), ALONE, 1)
    assert "3 of 4 GPUs stay idle here" in caplog.text


def test_a_worker_that_must_have_gpus_refuses_a_machine_without(
    four: pytest.MonkeyPatch,
) -> None:
    four.setenv("CUDA_VISIBLE_DEVICES", "")
    require_gpus(Settings(device="auto"), ALONE, 2)
    with pytest.raises(ConfigError, match=r"has no GPU that may be used, as CUDA_VISIBLE_DEVICES"):
        require_gpus(Settings(device="cuda"), ALONE, 2)


def test_a_pod_of_a_job_knows_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COGVX_MACHINES", "COGVX_MACHINE_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    assert Settings().machine_rank == 0  # the job has nothing to do with training together
    monkeypatch.setenv("COGVX_MACHINES", "4")
    assert Settings().machine_rank == 2
    monkeypatch.setenv("COGVX_MACHINE_RANK", "1")
    assert Settings().machine_rank == 1
