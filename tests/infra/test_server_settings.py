"""Servers and workers are started in several places, and are told the same in all of them."""

import re
from pathlib import Path

from deployments.up.services import Options, PoolPlan, servers, workers
from tasks.settings import Settings
from tests.infra.compose import INFRA, ROOT, compose, filled
from tests.infra.readme import README

_PREFIX = "PREFECT_SERVER_"
_CLEANUP = f"{_PREFIX}SERVICES_CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS"
_LEASES = f"{_PREFIX}CONCURRENCY_LEASE_STORAGE"


def test_every_server_has_what_the_matrix_had(tmp_path: Path) -> None:
    matrix = " ".join((ROOT / "tests" / "e2e" / "operation.py").read_text().split())
    said = dict(re.findall(rf'"({_PREFIX}[A-Z_]+)": \(? ?"([^"]+)"', matrix))
    wanted = {name: said[name] for name in (_CLEANUP, _LEASES)}
    unit = (INFRA / "systemd" / "cogvx-prefect.service").read_text()
    places = {
        "compose": compose(filled())["services"]["prefect"]["environment"],
        "systemd": dict(re.findall(r"^Environment=([A-Z_]+)=(.*)$", unit, re.MULTILINE)),
        "up": servers(Options(Path("c.toml")), Settings(_env_file=None, home=tmp_path))[
            0
        ].environment,
    }
    for place, given in places.items():
        assert {name: given.get(name) for name in wanted} == wanted, place


def test_the_page_says_which_settings_those_are() -> None:
    page = (ROOT / "docs" / "cancellation.md").read_text()
    measured = page[page.index("## Measured") : page.index("| what is done")]
    assert "`within_seconds = 90`" in measured
    assert "shipped" in measured
    assert f"`{_CLEANUP}`" in page


def test_who_holds_no_slot_uses_no_gpu() -> None:
    (line,) = re.findall(r"printf '(.*)' \| sudo tee /etc/cogvx/worker-cpu.env", README)
    assert "COGVX_DEVICE=cpu" in line.split("\\n")
    of_cpu, of_gpu = workers([PoolPlan("cpu"), PoolPlan("x", gpus=1)], ["0"], {}, with_slots=True)
    assert of_cpu.environment["COGVX_DEVICE"] == "cpu"
    assert "COGVX_DEVICE" not in of_gpu.environment
