"""Dockerfiles and what images hold: linted, and tried out as far as that goes without Docker."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.infra.compose import INFRA, ROOT

FILES = ["infra/worker.Dockerfile", "infra/control.Dockerfile"]
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent))

# In a process of its own, as this one has imported everything already.
_IMPORTS = """
import importlib, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)
absent = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Missing())
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def _instructions(file: str) -> list[tuple[str, str]]:
    """Instruction and the rest of it, continued lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / file).read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def _locked(*names: str) -> set[str]:
    pinned = set()
    for name in names:
        for line in (ROOT / name).read_text().splitlines():
            if line and not line.startswith("#"):
                assert re.match(r"[\w.-]+==[^@/]+$", line), f"{name}: {line}"
                pinned.add(canonicalize_name(Requirement(line).name))
    return pinned


def _with_dependencies(names: set[str]) -> set[str]:
    """What pip installs with these, as far as it is installed here."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # in images only
        found.add(name)
        for text in requires:
            needs = Requirement(text)
            extras = [*wanted.extras, ""]
            applies = not needs.marker or any(needs.marker.evaluate({"extra": e}) for e in extras)
            if applies and canonicalize_name(needs.name) not in found:
                waiting.append(needs)
    return found


@pytest.mark.skipif(HADOLINT is None, reason="hadolint has a wheel for Linux on x86-64 only")
def test_hadolint_has_nothing_to_say() -> None:
    command = [str(HADOLINT), "--config", "infra/hadolint.yaml", "--no-color", *FILES]
    linted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")


@pytest.mark.parametrize("file", FILES)
def test_an_image_is_pinned_and_runs_as_nobody_in_particular(file: str) -> None:
    found = _instructions(file)
    bases = [rest.split()[0] for name, rest in found if name == "FROM"]
    given = dict(rest.split("=", 1) for name, rest in found if name == "ARG" and "=" in rest)
    for base in bases:
        image = given.get(base.strip("${}"), base)
        assert re.search(r":[\w.-]*\d+\.\d+", image), f"{file}: {image} is not pinned"
    users = [rest for name, rest in found if name == "USER"]
    assert users == ["10001:10001"], file
    names = [name for name, _ in found]
    assert names.index("USER") > len(names) - 1 - names[::-1].index("COPY")
    assert "ADD" not in names
    assert ("ENTRYPOINT", '["/usr/local/bin/entrypoint"]') in found


@pytest.mark.parametrize("file", FILES)
def test_bytecode_is_compiled_and_the_final_stage_installs_nothing(file: str) -> None:
    text = (ROOT / file).read_text()
    build, final = text.split("\nFROM ")[-2:]
    assert "compileall" in build
    assert "pip install" not in final
    tools = set(re.findall(r"\b(?:gcc|g\+\+|make|git|curl|libc6-dev|python3.12-dev)\b", final))
    # triton calls a C compiler when a training run compiles.
    assert tools == ({"gcc", "libc6-dev", "python3.12-dev"} if "worker" in file else set())


def test_what_is_copied_is_there_and_let_through() -> None:
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if "!" in line
    }
    copied = set()
    for file in FILES:
        for name, rest in _instructions(file):
            if name == "COPY" and "--from" not in rest:
                copied |= set(shlex.split(rest)[:-1])
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_locks_pin_versions_and_name_no_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = _locked("requirements.lock")
    assert {canonicalize_name(Requirement(name).name) for name in wanted} <= pinned
    besides = _locked("infra/images.lock")
    assert not besides & pinned
    assert {"prefect-kubernetes", "psycopg2-binary"} <= besides


def test_the_worker_image_installs_what_the_project_says() -> None:
    command = [sys.executable, "infra/runtime.py", "pyproject.toml"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert printed.splitlines() == project["dependencies"]


def test_the_control_image_has_all_that_it_imports() -> None:
    lines = (INFRA / "control.txt").read_text().splitlines()
    direct = {line.partition("#")[0].strip() for line in lines} - {""}
    kept = _with_dependencies(direct | {"setuptools"}) | {"cogvx"}
    assert "torch" not in kept
    places = metadata.packages_distributions()
    absent = [
        top
        for top, owners in places.items()
        if not {canonicalize_name(owner) for owner in owners} & kept
    ]
    modules = ["deployments.cli", "prefect.server.api.server", "mlflow.server.fastapi_app"]
    modules += [f"flows.{path.stem}" for path in (ROOT / "flows").glob("[a-z]*.py")]
    command = [sys.executable, "-c", _IMPORTS, ",".join(absent), *modules]
    tried = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stderr[-3000:]


@pytest.mark.parametrize(
    ("command", "keeper"),
    [
        ("prefect worker start --pool gpu-train", "tasks.clients.tend"),
        ("prefect flow-run execute", "tasks.clients.forward"),
        ("prefect server start", "tasks.clients.supervise"),
    ],
)
def test_the_entry_point_waits_for_checkpoints(command: str, keeper: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", "COGVX_PYTHON": "echo", "COGVX_STOP_SECONDS": "60.5"}
    run = subprocess.run(
        ["sh", str(INFRA / "entrypoint.sh"), *command.split()],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["-m", keeper, "--grace", "190", "--", *command.split()]


def test_the_entry_point_ends_as_its_command_does() -> None:
    command = ["sh", str(INFRA / "entrypoint.sh"), "sh", "-c", "exit 7"]
    environment = {"PATH": "/usr/bin:/bin", "COGVX_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environment, check=False).returncode == 7
