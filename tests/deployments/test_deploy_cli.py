"""`cogvx deploy`: what is shown, and that to look needs neither a server nor a GPU stack."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from typer.testing import CliRunner

from cogvx.errors import ConfigError
from deployments.apply import apply_catalog
from deployments.catalog import CATALOG
from deployments.cli import app
from deployments.plan import Change, changes
from deployments.render import lines
from deployments.rows import Desired
from tests.fixtures.start import PYTHONPATH, ROOT

OFFLINE = """
import sys
from deployments.cli import app
sys.argv = ["cogvx", "deploy", "--dry-run", "--offline"]
app(standalone_mode=False)
heavy = {"torch", "diffusers", "transformers", "peft", "accelerate", "decord"}
print("loaded:", sorted(heavy & set(sys.modules)))
"""


def test_offline_needs_no_server_and_no_gpu_stack(tmp_path: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "PREFECT_API_URL"}
    environment |= {"COGVX_HOME": str(tmp_path), "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert shown[-1] == "loaded: []"
    assert "+ deployment  retrain/nano-demo" in shown
    assert '    schedules = [{"cron": "0 3 * * *", "timezone": "UTC"}]' in shown


@pytest.mark.parametrize("other", ["--dry-run", "--offline"])
def test_to_apply_and_not_to_apply_is_refused(other: str) -> None:
    with pytest.raises(ConfigError, match=f"--apply and {other} contradict each other"):
        CliRunner().invoke(app, ["deploy", "--apply", other], catch_exceptions=False)


def test_without_a_catalog_a_teams_server_is_left_as_it_is(
    client: SyncPrefectClient, deployed_url: str, rows: Callable[[str], Desired], tmp_path: Path
) -> None:
    team = rows(re.sub(r"(?m)^file = .*$", 'file = "ships.toml"', CATALOG.read_text()))
    apply_catalog(client, team)
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli", "deploy", "--apply"],
        cwd=ROOT,
        env={**os.environ, "COGVX_HOME": str(tmp_path / "home"), "PREFECT_API_URL": deployed_url},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2, done.stdout
    assert "name the catalog: `cogvx deploy --apply --catalog YOUR.toml`" in done.stderr
    assert changes(client, team) == ()


def test_a_plan_is_a_line_for_each_change() -> None:
    recipe = "parameters.recipe.train.steps"
    tags = ("tags", '["cogvx", "mine"]', '["cogvx", "theirs"]')
    plan = (
        Change("+", "pool", "cpu", (("type", "none", "process"), ("template.a", "none", "b"))),
        Change("~", "deployment", "retrain/ships", ((recipe, "120", "200"), tags)),
        Change("~", "automation", "a", (("description", "two\nlines", "x" * 200),)),
        Change("-", "limit", "cogvx-gpus"),
        Change("!", "pool", "old", note="is in no row"),
    )
    assert list(lines(plan)) == [
        "+ pool        cpu  (type process)",
        "~ deployment  retrain/ships",
        "    parameters.recipe.train.steps: 120 -> 200",
        "    tags: without mine, with theirs",
        "~ automation  a",
        f'    description: "two\\nlines" -> {"x" * 97}...',
        "- limit       cogvx-gpus",
        "! pool        old is in no row",
    ]
    assert "    template.a = b" in lines(plan, in_full=True)
