"""Which registered versions keep what they need in the store, and why; pure, from facts alone.

A version that leaves stays registered, and its registry has a copy of its adapter: what goes is its
adapter's file in the store, and the records, checkpoints and videos that nobody else needs.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cogvx.housekeeping.leaving import Registered

_DAY = 86_400.0


@dataclass(frozen=True)
class Candidate:
    """A version, and what speaks for keeping it.

    Attributes:
        model: Its registered model.
        number: Its number there.
        registered: Its name for people, and what it needs.
        touched: When it was made or last judged, in seconds since 1970; None if nobody knows.
        aliases: Those that point at it.
        was_champion: Whether the alias champion ever did.
        pinned: Whether a person asked for it to be kept.
    """

    model: str
    number: int
    registered: Registered
    touched: float | None
    aliases: tuple[str, ...] = ()
    was_champion: bool = False
    pinned: bool = False


@dataclass(frozen=True)
class Rule:
    """For how many seconds a version stays, and how many of each model stay for their number."""

    keep: float
    last: int


def why_kept(candidates: Sequence[Candidate], rule: Rule, *, now: float) -> Mapping[str, str]:
    """The first reason to keep each version, by its name for people; those without one leave."""
    newest: dict[str, list[int]] = defaultdict(list)
    for candidate in candidates:
        newest[candidate.model].append(candidate.number)
    last = {
        model: set(sorted(numbers, reverse=True)[: rule.last]) for model, numbers in newest.items()
    }
    reasons = {
        candidate.registered.name: _why(candidate, rule, now, last[candidate.model])
        for candidate in candidates
    }
    return {name: why for name, why in reasons.items() if why is not None}


def _why(candidate: Candidate, rule: Rule, now: float, last: set[int]) -> str | None:
    touched = candidate.touched
    reasons = {
        f"it is {' and '.join(candidate.aliases)}": bool(candidate.aliases),
        "it was champion": candidate.was_champion,
        "a person pinned it": candidate.pinned,
        f"it is among the last {rule.last} of {candidate.model}": candidate.number in last,
        "nobody knows how old it is": touched is None,
        f"it was made or judged within {rule.keep / _DAY:g} days": (
            touched is not None and now - touched < rule.keep
        ),
    }
    return next((why for why, holds in reasons.items() if holds), None)
