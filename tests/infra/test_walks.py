"""What a walk of README.md copies is what its `cogvx deploy` then asks for."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from deployments.catalog import load_catalog
from tests.infra.compose import ROOT, compose, filled
from tests.infra.readme import blocks, section

_WALKS = ("One server, with containers", "One server, without containers", "A cluster")
_SERVER = "/opt/cogvx"


def _lines(walk: str) -> list[list[str]]:
    lines = (
        shlex.split(line, comments=True)
        for block in blocks(section(walk))
        for line in block.splitlines()
    )
    return [line[1:] if line[:1] == ["sudo"] else line for line in lines]


def _place(path: str, project: Path) -> Path:
    return project / path.removeprefix(_SERVER).removeprefix("/")


def _catalog(line: list[str]) -> str | None:
    """The catalog that a line deploys, as the project's folder knows it."""
    if "--catalog" in line:
        return line[line.index("--catalog") + 1]
    if line[:2] == ["docker", "compose"] and line[-1] == "deploy":
        command = compose(filled())["services"]["deploy"]["command"]
        inside: str = command[command.index("--catalog") + 1]
        return inside.replace("/etc/cogvx", f"infra/{filled()['COGVX_CATALOG']}")
    return None


@pytest.mark.parametrize("walk", _WALKS)
def test_a_walk_makes_the_recipes_that_it_deploys(walk: str, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("my-style.toml", "suite.toml", ".env", "__pycache__")
    for part in ("infra", "deployments"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignored)
    deployed = 0
    for line in _lines(walk):
        if line[:1] == ["cp"]:
            shutil.copyfile(_place(line[1], tmp_path), _place(line[2], tmp_path))
        for file in re.findall(r"--from-file=\S+?=(\S+)", " ".join(line)):
            assert _place(file, tmp_path).is_file(), line
        if (catalog := _catalog(line)) is not None:
            (found,) = load_catalog(_place(catalog, tmp_path)).recipes
            assert found.row.file == "my-style.toml"
            assert _place(catalog, tmp_path).with_name("suite.toml").is_file()
            deployed += 1
    assert deployed == 1
