"""What differs between the recipes of two adapters, setting by setting."""

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from cogvx.errors import as_toml
from cogvx.evaluation.documents import Change

# What an adapter is called and how it is judged made no difference to its training.
_NOT_TRAINING = ("schema_version", "name", "evaluation.")
_ABSENT = "not set"


def recipe_changes(reference: str, candidate: str) -> tuple[Change, ...]:
    """Settings that decide an adapter and differ, in the candidate's order.

    Args:
        reference: A recipe as TOML, with its defaults.
        candidate: The other one.

    Raises:
        ValueError: One of them is no TOML.
    """
    old, new = (dict(_settings(tomllib.loads(text))) for text in (reference, candidate))
    names = [name for name in {**new, **old} if not name.startswith(_NOT_TRAINING)]
    return tuple(
        Change(setting=name, reference=old.get(name, _ABSENT), candidate=new.get(name, _ABSENT))
        for name in names
        if old.get(name) != new.get(name)
    )


def _settings(document: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", as_toml(value)
