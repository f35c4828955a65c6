"""Every command in README.md, compose.yaml, manifests and units is one that its program takes."""

import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import cyclopts
import pytest
import typer
import yaml
from mlflow.cli import cli as mlflow_cli
from prefect.cli.flow_run import flow_run_app
from prefect.cli.server import server_app
from prefect.cli.worker import worker_app

from deployments.cli import app
from tests.infra.compose import INFRA, ROOT, compose, filled
from tests.infra.readme import README, blocks

_PREFECT = {"worker": worker_app, "server": server_app, "flow-run": flow_run_app}
_COMPOSE = {"build", "up", "run", "exec"}


def _commands() -> Iterator[list[str]]:
    """Those of README.md: of blocks, and of sentences where they name a program of ours."""
    lines = [line for block in blocks() for line in block.splitlines()]
    lines += re.findall(r"`((?:\.venv/bin/)?(?:cogvx|prefect|accelerate) [^`]*)`", README)
    for line in lines:
        words = shlex.split(re.sub(r"\s[<>|].*| #.*", "", line.replace("\n", " ")))
        while words and (words[0] == "sudo" or re.match(r"[A-Z_]+=", words[0])):
            words = words[1:]
        if words[:1] == ["-u"]:
            words = words[2:]
        yield words


def _started() -> Iterator[list[str]]:
    """What compose.yaml, the manifests and the units start."""
    for service in compose(filled())["services"].values():
        yield [str(word) for word in service.get("command", [])]
    for path in (INFRA / "kubernetes").rglob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            template: dict[str, Any] = document.get("spec", {}).get("template", {})
            for container in template.get("spec", {}).get("containers", []):
                yield container["args"]
    for path in (INFRA / "systemd").glob("*.service"):
        (line,) = re.findall(r"^ExecStart=(.*)$", path.read_text(), re.MULTILINE)
        words = shlex.split(line.replace("$WORKER_OPTIONS", "--limit 1"))
        yield words[1:] if words[0].endswith("entrypoint.sh") else words


def _require_cogvx(words: Sequence[str]) -> None:
    """Parse as the command line does; nothing is run."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    command.make_context("cogvx", [word.replace("FILE", "x.toml") for word in rest])


def _require_prefect(words: Sequence[str]) -> None:
    found: cyclopts.App = _PREFECT[words[0]]
    found.parse_args(list(words[1:]), exit_on_error=False, print_error=False)


def _require(words: list[str]) -> bool:
    """Whether the program is one whose words are known here; raises for words it does not take."""
    program = words[0].rpartition("/")[2]
    if program == "cogvx":
        _require_cogvx(words[1:])
    elif program == "prefect" and words[1:] != ["flow-run", "execute"]:
        _require_prefect(words[1:])
    elif program == "mlflow" and words[1] == "server":
        mlflow_cli.commands["server"].make_context("server", words[2:])
    else:
        return program in {"posix", "python", "sh", "prefect"}
    return True


def test_what_is_started_can_be() -> None:
    started = [words for words in _started() if words]
    assert len(started) >= 15
    for words in started:
        assert _require(words), words


def test_a_block_can_be_read_by_the_shell() -> None:
    assert len(blocks()) >= 8
    for block in blocks():
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def test_commands_of_the_readme_are_taken() -> None:
    for words in _commands():
        if words and words[0].rpartition("/")[2] in {"cogvx", "prefect"}:
            assert _require(words), words


def test_compose_commands_name_services() -> None:
    services = compose(filled())["services"]
    found = [words for words in _commands() if words[:2] == ["docker", "compose"]]
    assert len(found) >= 8
    for words in found:
        assert words[2:4] == ["--file", "infra/compose.yaml"]
        command, rest = words[4], [word for word in words[5:] if not word.startswith("-")]
        assert command in _COMPOSE, words
        if rest:
            assert rest[0] in services, words


def test_what_is_copied_built_and_applied_is_there() -> None:
    for words in _commands():
        for word, following in itertools.pairwise(words):
            if word in {"--filename", "--kustomize", "--config_file"} or (
                word == "--file" and following.startswith("infra/")
            ):
                assert (ROOT / following).exists(), words
            if word == "--build-arg":
                dockerfile = (ROOT / words[words.index("--file") + 1]).read_text()
                assert f"ARG {following.partition('=')[0]}=" in dockerfile, words
        for word in words:
            if word.startswith("infra/systemd/") or (words[0] == "cp" and word.endswith("example")):
                assert (ROOT / word).is_file(), words
        if words[:1] == ["cp"]:
            assert (ROOT / words[1]).is_file(), words


def test_units_and_their_files_have_the_same_names() -> None:
    for words in _commands():
        if words[:2] == ["systemctl", "enable"]:
            for unit in words[3:]:
                name, at, instance = unit.partition("@")
                assert (INFRA / "systemd" / f"{name}{at}.service").is_file()
                if at:
                    assert f"/etc/cogvx/worker-{instance}.env" in README


def test_make_and_terraform_know_what_they_are_asked_for() -> None:
    variables = (INFRA / "terraform" / "variables.tf").read_text()
    for words in _commands():
        if words[:1] == ["make"]:
            subprocess.run(
                ["make", "--dry-run", words[-1]], cwd=ROOT, check=True, capture_output=True
            )
        if words[:1] == ["terraform"]:
            assert (ROOT / words[1].removeprefix("-chdir=")).is_dir()
            given = [following for word, following in itertools.pairwise(words)
                     if word == "-var"]  # fmt: skip
            assert all(f'variable "{one.partition("=")[0]}"' in variables for one in given)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert (INFRA / target).exists(), target


@pytest.mark.parametrize("name", ["cogvx", "prefect", "mlflow"])
def test_files_of_settings_name_settings(name: str) -> None:
    lines = (INFRA / "systemd" / f"{name}.env.example").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
    secrets = [value for key, value in given.items() if re.search(r"KEY|AUTH", key)]
    assert set(secrets) == {""}
    compose_services = compose(filled())["services"]
    known = {key for one in compose_services.values() for key in one.get("environment", {})}
    assert set(given) <= known
