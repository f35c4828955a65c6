"""A plan as lines for a terminal and for review: what is added, changed, removed, and left."""

import json
from collections.abc import Iterable, Iterator

from deployments.plan import ABSENT, Change

# What says most about a thing that is added; all of it is shown on request.
_BRIEF = ("type", "pool", "queue", "concurrency", "slots", "limit", "schedules", "description")
_SHOWN = 100  # characters of a value
_OBVIOUS = {"pool": ("description",), "deployment": ("description",)}


def lines(plan: Iterable[Change], *, in_full: bool = False) -> Iterator[str]:
    """A line for each change, and below it one for each field.

    Args:
        plan: In the order in which it is done.
        in_full: Also show every field of what is added, and no value cut short.
    """
    for change in plan:
        head = f"{change.sign} {change.kind:<11} {change.name}"
        if change.note:
            yield f"{head} {change.note}"
        elif change.sign == "+" and not in_full:
            yield f"{head}  ({facts})" if (facts := _brief(change)) else head
        else:
            yield head
            yield from _fields(change, in_full=in_full)


def _brief(change: Change) -> str:
    shown = [name for name in _BRIEF if name not in _OBVIOUS.get(change.kind, ())]
    facts = {field: new for field, _, new in change.fields if field in shown and new != "[]"}
    return ", ".join(f"{name} {_text(facts[name], 2 * _SHOWN)}" for name in shown if name in facts)


def _fields(change: Change, *, in_full: bool) -> Iterator[str]:
    most = None if in_full else _SHOWN
    for field, old, new in change.fields:
        if change.sign == "+":
            yield f"    {field} = {_text(new, most)}"
        elif (parts := _parts(old, new)) is not None:
            yield f"    {field}: {parts}"
        else:
            yield f"    {field}: {_text(old, most)} -> {_text(new, most)}"


def _parts(old: str, new: str) -> str | None:
    """What came to a list and what went, where that says more than two long lists."""
    if not (old.startswith('["') and new.startswith('["')):
        return None
    before, after = json.loads(old), json.loads(new)
    gone = [each for each in before if each not in after]
    came = [each for each in after if each not in before]
    if not gone and not came:
        return None
    return ", ".join([*(f"without {each}" for each in gone), *(f"with {each}" for each in came)])


def _text(value: str, most: int | None) -> str:
    """A value on one line; what is not there says so without quotes."""
    if value == ABSENT:
        return value
    line = value if value.isprintable() else json.dumps(value)
    return line if most is None or len(line) <= most else f"{line[: most - 3]}..."
