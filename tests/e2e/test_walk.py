"""The first walk of infra/README.md: from a fresh clone to a champion that the clock made.

Its lines are run as they stand, in a clone of what is committed, with an environment of its own. It
prints how long each took; docs say how long that may be.
"""

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.up.state import Desk, UpState
from tasks.clients.processes import listener
from tests.fixtures.start import ROOT
from tests.infra.readme import blocks, section

SECONDS = 1800.0  # a machine that has no packages yet, and does other things
PORTS = (4200, 5000)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * SECONDS)]


@dataclass
class Walk:
    """A clone, and when its making began."""

    clone: Path
    home: Path
    began: float = field(default_factory=time.monotonic)

    @property
    def environment(self) -> dict[str, str]:
        """Of a person who has just opened a terminal; downloads of packages are kept."""
        kept = {"PATH", "LANG", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "XDG_CACHE_HOME"}
        given = {
            name: value
            for name, value in os.environ.items()
            if name in kept or name.upper().startswith("PIP_") or name.lower().endswith("_proxy")
        }
        return {**given, "HOME": str(self.home), "PREFECT_HOME": str(self.home / "prefect")}

    def run(self, line: str) -> str:
        """Run a line as a shell does; gives back what it printed, raises if it failed."""
        begun = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.clone,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-6000:]}"
        self.print(f"{time.monotonic() - begun:6.1f} s  {line}")
        return done.stdout

    def print(self, what: str) -> None:
        print(f"{time.monotonic() - self.began:7.1f} s  {what}", flush=True)

    @property
    def state(self) -> UpState:
        state = Desk(self.clone / ".cogvx").read()
        assert state is not None
        return state


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Those of the section, in their order."""
    return [line for block in blocks(section("One machine")) for line in block.splitlines()]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    held = [port for port in PORTS if listener(port) is not None]
    if held:
        pytest.skip(f"the walk's own ports are taken: {held}")
    home = tmp_path_factory.mktemp("walk")
    made = Walk(home / "clone", home)
    subprocess.run(["git", "clone", "--quiet", ROOT, made.clone], check=True)
    yield made
    if (made.clone / ".venv" / "bin" / "cogvx").exists():
        made.run(".venv/bin/cogvx down")


def test_from_a_fresh_clone_to_a_champion_that_the_clock_made(walk: Walk, lines: list[str]) -> None:
    set_up, soon, up, status, trigger, down = lines
    assert shlex.split(set_up)[0] == "make"
    for line in (set_up, soon, up):
        walk.run(line)
    told = walk.run(status)
    state = walk.state
    assert state.prefect in told
    with temporary_settings({PREFECT_API_URL: f"{state.prefect}/api"}):
        run = _first_by_the_clock(walk)
    assert run.state_name == "Completed", repr(run.state)
    walk.print(f"{run.name} was due {run.expected_start_time}, began {run.start_time}")
    champion = MlflowClient(state.mlflow).get_model_version_by_alias("nano-demo", "champion")
    assert (champion.version, champion.tags["cogvx.verdict"]) == ("1", "PROMOTE")
    assert "Completed" in walk.run(trigger)
    processes = [mark for service in state.services for mark in service.processes]
    assert processes
    walk.run(down)
    assert not [mark for mark in processes if mark.lives]


def _first_by_the_clock(walk: Walk) -> FlowRun:
    """Wait until a run that the schedule started has ended."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("retrain/nano-demo").id
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            found = client.read_flow_runs(limit=200)
            by_clock = [r for r in found if r.auto_scheduled and r.deployment_id == deployment]
            first = min(by_clock, key=lambda run: str(run.expected_start_time), default=None)
            if first is not None and first.state is not None and first.state.is_final():
                walk.print("the first run of the schedule has ended")
                return first
            time.sleep(2)
    raise AssertionError(f"no run of the schedule ended in {SECONDS:g} s")
