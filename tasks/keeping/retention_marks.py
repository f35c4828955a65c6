"""Since when versions are meant to leave, so that a person who sees them has time to pin one.

retention/marks.json    Marks
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cogvx.digest import canonical_json
from cogvx.store import ObjectStore
from tasks.workbench import read_stored

_MARKS = "retention/marks.json"


class Marks(BaseModel):
    """Since when, in seconds since 1970, versions are meant to leave, by their names for people."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    since: dict[str, float] = {}


def marked(store: ObjectStore, leaving: Sequence[str], now: float) -> dict[str, float]:
    """Since when these are meant to leave; those that are new to it since now."""
    there = store.info(_MARKS) is not None
    since = read_stored(store, _MARKS, Marks).since if there else {}
    return {name: since.get(name, now) for name in leaving}


def keep_marks(store: ObjectStore, marks: Mapping[str, float]) -> None:
    """Write them down for the next sweep."""
    document = Marks(since=dict(marks))
    if store.info(_MARKS) is None or read_stored(store, _MARKS, Marks) != document:
        store.write(_MARKS, canonical_json(document))
