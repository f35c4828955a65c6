"""The units: read by systemd itself where there is one, and by their promises everywhere."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tasks.settings import Settings
from tests.infra.compose import INFRA

UNITS = sorted((INFRA / "systemd").glob("*.service"))
ANALYSE = shutil.which("systemd-analyze")
# Where README.md says that the project lies.
HOME = "/opt/cogvx"


def _values(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.skipif(ANALYSE is None, reason="systemd is not installed")
def test_systemd_can_read_them(tmp_path: Path) -> None:
    for unit in UNITS:  # it also looks whether the programs are there
        here = unit.read_text().replace(f"ExecStart={HOME}", f"ExecStart=/bin/true {HOME}")
        (tmp_path / unit.name.replace("@", "@gpu-eval-1")).write_text(here)
    found = subprocess.run(
        [str(ANALYSE), "verify", "--man=no", *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_again_and_may_do_little(path: Path) -> None:
    unit = _values(path)
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert unit["User"] == ["cogvx"]
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["CapabilityBoundingSet"] == [""]
    program = unit["ExecStart"][0].split()[0]
    assert program.startswith(f"{HOME}/")
    assert ".venv" in program or (INFRA.parent / program.removeprefix(f"{HOME}/")).is_file()
    for secret in ("PASSWORD", "AUTH_STRING", "SECRET"):
        assert not any(secret in line for line in unit.get("Environment", []))


def test_a_worker_is_given_the_time_to_store_its_checkpoint() -> None:
    unit = _values(INFRA / "systemd" / "cogvx-worker@.service")
    assert unit["ExecStart"][0].startswith(f"{HOME}/infra/entrypoint.sh prefect worker start ")
    # Told alone, the entry point ends the runs; told themselves, they would race with the worker.
    assert unit["KillMode"] == ["mixed"]
    stop = Settings.model_fields["stop_seconds"].default
    assert float(unit["TimeoutStopSec"][0]) >= stop + 130 + 30
    assert unit["OOMPolicy"] == ["continue"]
    assert not {"PrivateDevices", "MemoryDenyWriteExecute"} & set(unit)
    assert unit["EnvironmentFile"] == ["/etc/cogvx/cogvx.env", "/etc/cogvx/worker-%i.env"]
