"""docs/architecture.md names the floors and rooms that the linter holds, and nothing else."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def first_column(after: str) -> list[str]:
    """The names in the first column of the table that follows a line."""
    table = PAGE[PAGE.index(after) :].split("\n\n|", 1)[1].split("\n\n", 1)[0]
    cells = [line.split("|")[1 if line.startswith("|") else 0] for line in table.splitlines()[2:]]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def held() -> dict[str, list[str]]:
    """The layers of each part of the project, from above, as import-linter is told them."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {
        contract.get("containers", ["floors"])[0]: contract["layers"]
        for contract in tool["contracts"]
        if contract["type"] == "layers"
    }


def test_the_floors_are_those_that_are_held() -> None:
    floors = first_column("a floor imports only floors below it")
    assert [name.rstrip("/") for name in floors] == held()["floors"][::-1]


def test_the_rooms_of_tasks_are_those_that_are_held() -> None:
    rooms = [room for room in held()["tasks"] if (ROOT / "tasks" / room).is_dir()]
    assert first_column("Rooms of `tasks/`") == rooms
    said = re.search(r"^`lint-imports`.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert said is not None
    assert {part for part in held() if part != "floors"} == set(re.findall(r"`(\w+)`", said[0]))


def test_everything_in_deployments_has_its_place() -> None:
    named = first_column("Parts of `deployments/`")
    there = [path for path in (ROOT / "deployments").iterdir() if not path.name.startswith("_")]
    names = [f"{path.stem}/" if path.is_dir() else path.name.removesuffix(".py") for path in there]
    unnamed = [name for name in names if not any(fnmatch(name, part) for part in named)]
    assert unnamed == []
    assert [part for part in named if not any(fnmatch(name, part) for name in names)] == []
