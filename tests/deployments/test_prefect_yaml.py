"""`prefect deploy --all` with the generated file makes what `cogvx deploy --apply` makes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient

from deployments.apply import apply_catalog
from deployments.catalog import CATALOG, load_catalog
from deployments.plan import changes
from deployments.prefect_yaml import PAGE
from deployments.rows import desired
from deployments.server import read_server


@pytest.mark.slow
def test_prefect_deploys_the_same(
    client: SyncPrefectClient, deployed_url: str, tmp_path: Path
) -> None:
    rows = desired(load_catalog(CATALOG))
    apply_catalog(client, rows)
    ours = read_server(client, rows)
    for seen in ours.deployments.values():
        client.delete_deployment(seen.id)
    for automation in ours.automations.values():
        client.delete_automation(automation.id)
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=PAGE.parent,
        env={**os.environ, "PREFECT_API_URL": deployed_url, "PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    theirs = read_server(client, rows)
    assert {name: seen.document for name, seen in theirs.deployments.items()} == {
        name: seen.document for name, seen in ours.deployments.items()
    }
    arrival = "cogvx: clips of nano-demo arrived"
    assert theirs.automations[arrival].document == ours.automations[arrival].document
    # What has no place in that file is all that is left to do.
    left = [f"{change.sign} {change.kind} {change.name}" for change in changes(client, rows)]
    assert left == ["+ automation cogvx: silent runs"]
    apply_catalog(client, rows)
    assert changes(client, rows) == ()
