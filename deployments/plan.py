"""What would have to change at a server to make it what a catalog says.

What people changed by hand is put back. What they paused stays paused, and is reported.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import get_current_settings

from cogvx.errors import ConfigError, Problem
from deployments.documents import (
    Document,
    automation_document,
    deployment_document,
    pool_document,
)
from deployments.env_rules import holds_secret
from deployments.rows import Desired
from deployments.server import Found, Seen, read_server
from tasks.caching.arrivals import ARRIVED
from tasks.clients.secrets import is_secret, without_secrets

Sign = Literal["+", "~", "-", "!"]
Kind = Literal["pool", "limit", "deployment", "automation"]
Fields = tuple[tuple[str, str, str], ...]

ABSENT = "none"
"""How a value is shown that is not there."""


@dataclass(frozen=True)
class Change:
    """One thing that is to be added (+), changed (~), removed (-), or only reported (!).

    `fields` are (field, old, new) as text; `note` says what is reported.
    """

    sign: Sign
    kind: Kind
    name: str
    fields: Fields = ()
    note: str = ""


def changes(client: SyncPrefectClient, desired: Desired) -> tuple[Change, ...]:
    """What applying these rows would do to the server; changes nothing.

    Raises:
        ConfigError: The server cannot become this, with all reasons.
        TransientError: The server did not answer.
    """
    return compare(read_server(client, desired), desired)


def compare(found: Found, desired: Desired, *, partly: bool = False) -> tuple[Change, ...]:
    """As `changes`, of what was found: in the order in which it can be done.

    Args:
        found: What is there.
        desired: What is to be there.
        partly: What the server cannot take is held back and reported, and does not stop the rest.

    Raises:
        ConfigError: The server cannot become this, with all reasons.
    """
    obstacles = _obstacles(found, desired)
    if obstacles and not partly:
        problems = list(dict.fromkeys(obstacles.values()))
        raise ConfigError("this server cannot become what the catalog says", problems)
    documents: dict[Kind, tuple[Mapping[str, Seen], dict[str, Document]]] = {
        "pool": (found.pools, {row.name: pool_document(row) for row in desired.pools}),
        "limit": (
            found.limits,
            {row.name: {"slots": row.slots, "active": True} for row in desired.limits},
        ),
        "deployment": (
            found.deployments,
            {row.full_name: deployment_document(row) for row in desired.deployments},
        ),
        "automation": (
            found.automations,
            {row.name: automation_document(row) for row in desired.automations},
        ),
    }
    wanted = [
        change for kind, (there, rows) in documents.items() for change in _wanted(kind, there, rows)
    ]
    held = [
        change for change in wanted if is_change(change) and (change.kind, change.name) in obstacles
    ]
    surplus = [
        change
        for kind, (there, rows) in reversed(documents.items())
        for change in _surplus(kind, there, rows)
    ]
    done = [change for change in wanted if change not in held]
    return (*done, *surplus, *_held_back(held, obstacles), *_unwatched(desired))


def is_change(change: Change) -> bool:
    """Whether applying does something; reports are for people."""
    return change.sign != "!"


def differences(old: Document, new: Document) -> Fields:
    """The fields in which two documents differ, each as text; secrets are not shown."""
    before, after = dict(_leaves("", old)), dict(_leaves("", new))
    return tuple(
        (field, _shown(field, before.get(field)), _shown(field, after.get(field)))
        for field in dict.fromkeys([*after, *before])
        if before.get(field) != after.get(field)
    )


def _obstacles(found: Found, desired: Desired) -> dict[tuple[Kind, str], Problem]:
    """What stands in the way of single rows, and where a person removes it."""
    obstacles: dict[tuple[Kind, str], Problem] = {}
    for row in desired.pools:
        there = found.pools.get(row.name)
        if there is not None and (theirs := there.document["type"]) != row.type:
            obstacles["pool", row.name] = Problem(
                f"pools.{row.name}.type",
                row.type,
                f'is "{theirs}" at the server, which never changes',
                "give the pool another name, or delete it "
                + _at_page(f"work-pools/work-pool/{quote(row.name)}"),
            )
    for each in desired.automations:
        block = each.action.get("block")
        if block is not None and block not in found.blocks:
            kind = block.partition("/")[0]
            use = f"make it {_at_page(f'blocks/catalog/{quote(kind)}/create')}"
            wrong = "is no block of this server"
            obstacles["automation", each.name] = Problem("notify.block", block, wrong, use)
    return obstacles


def _at_page(path: str) -> str:
    """Where a person does something by hand; nobody says whose pages if no server is asked."""
    pages = get_current_settings().ui_url
    return f"at {without_secrets(pages)}/{path}" if pages else "in Prefect's pages"


def _held_back(
    held: Iterable[Change], obstacles: Mapping[tuple[Kind, str], Problem]
) -> Iterator[Change]:
    """What is not done until a person has removed an obstacle, once for each of those."""
    names: dict[tuple[Kind, Problem], list[str]] = {}
    for change in held:
        problem = obstacles[change.kind, change.name]
        names.setdefault((change.kind, problem), []).append(change.name)
    for (kind, problem), some in names.items():
        then = "then `cogvx deploy --apply --catalog YOUR.toml`, or the next `cogvx up`, does it"
        yield Change("!", kind, ", ".join(some), note=f"held back: {problem}; {then}")


def _unwatched(desired: Desired) -> Iterator[Change]:
    """Arrivals that nothing here announces, and so mostly nothing at all."""
    names = {row.full_name for row in desired.deployments}
    for row in desired.automations:
        watch = (row.owner or "").replace("retrain/", "watch/", 1)
        if watch and watch not in names and row.enabled:
            wrong = f"waits for {ARRIVED}, and no {watch} sends it"
            note = f"{wrong}; add [watch], unless something of yours does"
            yield Change("!", "automation", row.name, note=note)


def _wanted(
    kind: Kind, there: Mapping[str, Seen], rows: Mapping[str, Document]
) -> Iterator[Change]:
    for name, row in rows.items():
        seen = there.get(name)
        if seen is None:
            yield Change("+", kind, name, differences({}, row))
            continue
        if fields := differences(seen.document, _left_resting(seen, row)):
            yield Change("~", kind, name, fields)
        if note := _rests(kind, seen, row):
            yield Change("!", kind, name, note=note)


def _left_resting(seen: Seen, row: Document) -> Document:
    """The row, but for what a person paused."""
    if not seen.is_paused or _pauses(row):
        return row
    same = {key: seen.document[key] for key in ("paused", "enabled") if key in row}
    return {**row, **same}


def _rests(kind: Kind, seen: Seen, row: Document) -> str:
    """What a person paused and the catalog does not."""
    if seen.is_paused and not _pauses(row):
        verb = "disabled" if kind == "automation" else "paused"
        return f"was {verb} by hand, and stays so; resume it there"
    if seen.is_off:
        return "has a schedule that was paused by hand, and stays so; resume it there"
    return ""


def _pauses(row: Document) -> bool:
    """Whether the catalog itself wants it paused."""
    return row.get("paused") is True or row.get("enabled") is False


def _surplus(
    kind: Kind, there: Mapping[str, Seen], rows: Mapping[str, Document]
) -> Iterator[Change]:
    for name, seen in sorted(there.items(), key=lambda item: item[0]):
        if name in rows:
            if seen.twins:
                many = 1 + len(seen.twins)
                yield Change("-", kind, name, note=f"is there {many} times; one of them stays")
            continue
        if not seen.is_ours:
            continue
        if kind == "pool":
            note = f"is in no row; its runs would be lost, so delete it by hand: {_delete(name)}"
            yield Change("!", kind, name, note=note)
        else:
            yield Change("-", kind, name)


def _delete(pool: str) -> str:
    return f'`prefect work-pool delete "{pool}"`'


def _leaves(place: str, value: object) -> Iterator[tuple[str, Any]]:
    """The plain values of a document by their place; lists are one value."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{place}.{key}" if place else str(key), inner)
    elif value is not None and value != {}:
        yield place, _plain(value)


def _plain(value: object) -> Any:
    """As it comes back from a server: JSON has neither tuples nor two kinds of numbers."""
    return json.loads(json.dumps(value))


def _shown(field: str, value: object) -> str:
    if value is None:
        return ABSENT
    text = value if isinstance(value, str) else json.dumps(value)
    _, env, name = f".{field}".rpartition(".env.")
    if env and (is_secret(name) or holds_secret(text)):  # by hand, at the server
        return "***"
    return without_secrets(text)


def count(plan: Iterable[Change]) -> str:
    """A plan in one line."""
    signs = [change.sign for change in plan]
    words = {"+": "to add", "~": "to change", "-": "to remove"}
    return ", ".join(f"{signs.count(sign)} {word}" for sign, word in words.items() if sign in signs)
