"""AWS has no endpoint: what stands empty in a form must not reach MLflow as an address."""

import re
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.infra.compose import INFRA, ROOT, compose, filled

# What MLflow's server does for the first artifact.
_CLIENT = """
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository
print(S3ArtifactRepository("s3://bucket/x")._get_s3_client().meta.endpoint_url)
"""


def _client_of(settings: Mapping[str, str | None]) -> str:
    """The address that MLflow's client has behind the entry point."""
    ours = {name: value for name, value in settings.items() if name[:4] in {"AWS_", "MLFL"}}
    given = {name: value or "" for name, value in ours.items()}  # what YAML read as nothing
    base = {"PATH": "/usr/bin:/bin", "COGVX_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        ["sh", str(INFRA / "entrypoint.sh"), sys.executable, "-c", _CLIENT],
        env=base | given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.strip()


@pytest.mark.parametrize(
    ("endpoint", "asked"),
    [("", "https://s3.amazonaws.com"), ("https://s3.example.com", "https://s3.example.com")],
)
def test_artifacts_in_a_container_go_where_the_form_says(endpoint: str, asked: str) -> None:
    variables = filled() | {"COGVX_S3_ENDPOINT_URL": endpoint}
    assert _client_of(compose(variables)["services"]["mlflow"]["environment"]) == asked


@pytest.mark.parametrize("line", ["", "MLFLOW_S3_ENDPOINT_URL=\n"])
def test_artifacts_of_the_unit_go_to_aws(line: str) -> None:
    (command,) = re.findall(
        r"^ExecStart=(.*)$", (INFRA / "systemd" / "cogvx-mlflow.service").read_text(), re.MULTILINE
    )
    assert command.split()[0] == "/opt/cogvx/infra/entrypoint.sh"
    text = (INFRA / "systemd" / "mlflow.env.example").read_text() + line
    given = dict(one.split("=", 1) for one in text.splitlines() if "=" in one and one[0] != "#")
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    assert _client_of(given | keys) == "https://s3.amazonaws.com"
