"""Shell scripts are read by their shell, Terraform's files and accelerate's by their programs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from tests.infra.compose import INFRA, ROOT

TERRAFORM = shutil.which("terraform")


@pytest.mark.parametrize("path", sorted(INFRA.rglob("*.sh")), ids=lambda path: path.name)
def test_a_script_can_be_read_and_run(path: Path) -> None:
    shell = "bash" if "bash" in path.read_text().splitlines()[0] else "sh"
    subprocess.run([shell, "-n", str(path)], check=True)
    assert path.stat().st_mode & 0o111, f"{path} cannot be executed"


@pytest.mark.skipif(TERRAFORM is None, reason="terraform is not installed")
def test_terraform_is_formatted_and_can_be_read() -> None:
    command = [str(TERRAFORM), "fmt", "-check", "-recursive", "-diff", str(INFRA / "terraform")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr


# What init says where there is no way to a registry, and no copy of the provider either.
_NO_PROVIDER = ("Failed to query available provider packages", "Failed to install provider")


@pytest.mark.skipif(TERRAFORM is None, reason="terraform is not installed")
def test_terraform_knows_every_argument(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for path in (INFRA / "terraform").glob("*.tf"):
        shutil.copy(path, tmp_path)
    # The provider is some hundred MB: it is fetched once for all runs of the tests.
    assert request.config.cache is not None
    kept = str(request.config.cache.mkdir("terraform"))

    def terraform(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(TERRAFORM), f"-chdir={tmp_path}", *command, "-no-color"],
            env={"TF_PLUGIN_CACHE_DIR": kept, **os.environ},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    made = terraform("init", "-backend=false", "-input=false")
    said = " ".join(made.stderr.split())
    if made.returncode and any(reason in said for reason in _NO_PROVIDER):
        pytest.skip(f"the provider cannot be had: {said[said.index('Failed to') :]}")
    assert made.returncode == 0, made.stderr
    checked = terraform("validate")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_policies_allow_what_the_store_asks_for_and_no_more() -> None:
    text = (INFRA / "terraform" / "access.tf").read_text()
    allowed = {part for part in text.split('"') if part.startswith("s3:")}
    calls = {
        "head_object": "s3:GetObject",
        "get_object": "s3:GetObject",
        "put_object": "s3:PutObject",
        "upload_fileobj": "s3:PutObject",
        "delete_object": "s3:DeleteObject",
        "list_objects_v2": "s3:ListBucket",
    }
    sources = [path.read_text() for path in (ROOT / "tasks" / "clients").glob("s3*.py")]
    asked = {name for source in sources for name in re.findall(r"client\.([a-z0-9_]+)", source)}
    asked -= {"meta"}
    assert asked == set(calls), "a call of boto3 that no policy was made for"
    # An upload in parts that fails is given up by boto3 itself.
    assert allowed == set(calls.values()) | {"s3:AbortMultipartUpload"}


@pytest.mark.parametrize(
    ("name", "processes", "machines"), [("one-gpu", 1, 1), ("gpus", 4, 1), ("machines", 8, 2)]
)
def test_accelerate_reads_its_configuration(name: str, processes: int, machines: int) -> None:
    config = load_config_from_file(str(INFRA / "accelerate" / f"{name}.yaml"))
    assert (config.num_processes, config.num_machines) == (processes, machines)
    assert config.distributed_type == ("MULTI_GPU" if processes > 1 else "NO")
    assert config.mixed_precision == "no"
    assert not config.use_cpu
