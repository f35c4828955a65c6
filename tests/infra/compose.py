"""compose.yaml as Docker Compose would see it: variables put in, merge keys resolved."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
EXAMPLE = INFRA / ".env.example"

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<how>:?[-?+])(?P<word>[^}]*))?\}")


class UnsetError(Exception):
    """A variable that must have a value has none."""


def example() -> dict[str, str]:
    """The variables of .env.example, those that are commented out left out."""
    lines = [line.strip() for line in EXAMPLE.read_text().splitlines()]
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def filled() -> dict[str, str]:
    """.env.example with its secrets filled in."""
    return {
        name: value or f"{name.lower()}0" if name in SECRETS else value
        for name, value in example().items()
    } | {"PREFECT_AUTH": "team:password0"}


SECRETS = ("POSTGRES_PASSWORD", "PREFECT_AUTH", "COGVX_S3_ACCESS_KEY", "COGVX_S3_SECRET_KEY")


def put_in(text: str, variables: Mapping[str, str]) -> str:
    """Interpolate as the Compose specification says; raises UnsetError for a required one."""

    def value(found: re.Match[str]) -> str:
        name, how, word = found["name"], found["how"] or "", found["word"] or ""
        is_set = bool(variables.get(name)) if how.startswith(":") else name in variables
        if how.endswith("?") and not is_set:
            raise UnsetError(f"{name}: {word}")
        if how.endswith("-"):
            return variables[name] if is_set else word
        if how.endswith("+"):
            return word if is_set else ""
        return variables.get(name, "")

    return _VARIABLE.sub(value, text)


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """The document with these variables; extensions are left out."""
    text = put_in((INFRA / "compose.yaml").read_text(), variables)
    document: dict[str, Any] = yaml.safe_load(text)
    return {key: value for key, value in document.items() if not key.startswith("x-")}


def variables_of(text: str) -> set[str]:
    """The names that a text asks for."""
    return {found["name"] for found in _VARIABLE.finditer(text)}


def seconds(duration: str) -> float:
    """A duration as Compose writes it: 90s, 3m, 1m30s."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    parts = re.findall(r"(\d+)([hms])", duration)
    assert "".join(number + unit for number, unit in parts) == duration, duration
    return sum(int(number) * units[unit] for number, unit in parts)
