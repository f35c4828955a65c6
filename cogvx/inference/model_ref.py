"""How a registered model's version is written: one reading for every command that takes one."""

import re
from dataclasses import dataclass

from cogvx.errors import ConfigError

SCHEME = "models:/"
_PART = r"[^@/:'\"]+"  # quotes would end a name in what MLflow is asked
_REFERENCE = re.compile(
    rf"(?:{SCHEME})?(?P<name>{_PART})(?:@(?P<alias>{_PART})|/(?P<version>[1-9][0-9]{{0,8}}))?"
)


@dataclass(frozen=True)
class Reference:
    """A model, and which of its versions: by alias, by number, or neither."""

    name: str
    alias: str | None = None
    version: int | None = None


def parse_reference(text: str) -> Reference:
    """Understand `name`, `name@alias`, `name/3`, each also with `models:/` before it.

    Raises:
        ConfigError: It is none of them.
    """
    found = _REFERENCE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(
            f'"{text}" names no version; use name@alias, name/3 or models:/name@alias'
        )
    number = found["version"]
    return Reference(found["name"], found["alias"], int(number) if number else None)


def is_model(text: str) -> bool:
    """Whether a reference means the registry where a file could be named as well."""
    return text.startswith(SCHEME)


def is_version(text: str) -> bool:
    """Whether a reference can be understood."""
    return _REFERENCE.fullmatch(text.strip()) is not None
