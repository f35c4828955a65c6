"""Whether two adapters, or an adapter and a base at hand, belong to one base model.

Bytes decide where both sides know them. Where one does not, what it does know must agree: the kind,
which a published hub id tells, the path, and the revision. What nothing contradicts and nothing
proves is used, and a person is told.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cogvx.adapters.card import AdapterCard
from cogvx.model.identity import commit_of, hub_id_of
from cogvx.variants import BaseFacts, published_facts

Verdict = Literal["same", "unproven", "other"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHOWN = 12  # of a fingerprint's 64 digits


@dataclass(frozen=True)
class NamedBase:
    """What is known of a base; None where nobody knows it.

    Attributes:
        path: A folder or a hub id.
        revision: Of a hub id.
        fingerprint: Of its bytes.
        facts: Of its configuration; of a published hub id they are known anyway.
    """

    path: str | None
    revision: str | None = None
    fingerprint: str | None = None
    facts: BaseFacts | None = None

    @property
    def kind(self) -> str | None:
        """The member of the family."""
        facts = self.facts or (None if self.path is None else published_facts(self.path))
        return None if facts is None else facts.variant.name

    def __str__(self) -> str:
        """For a sentence: where it is, at which revision, and which bytes it has."""
        path = self.path or (self.kind and f"a {self.kind}") or "a base"
        kind = f", a {self.kind}" if self.path and self.kind and self.kind not in self.path else ""
        known = "bytes unknown" if self.fingerprint is None else self.fingerprint[:_SHOWN]
        return f"{path}{f' at {self.revision}' if self.revision else ''} ({known}{kind})"


def base_of_card(card: AdapterCard) -> NamedBase:
    """The base that a card names."""
    return NamedBase(card.base_path, card.base_revision, card.base_fingerprint)


def base_in_folder(
    folder: Path | None, facts: BaseFacts | None, fingerprint: str | None
) -> NamedBase:
    """A base on this machine; what the hub's client downloaded goes by its hub id and commit."""
    if folder is None:
        return NamedBase(None, None, fingerprint, facts)
    return NamedBase(hub_id_of(folder) or str(folder), commit_of(folder), fingerprint, facts)


def compare(first: NamedBase, second: NamedBase) -> Verdict:
    """Whether both are one base, must be two, or may be either."""
    if first.fingerprint is not None and second.fingerprint is not None:
        return "same" if first.fingerprint == second.fingerprint else "other"
    if first.kind is not None and second.kind is not None and first.kind != second.kind:
        return "other"
    if _other_path(first, second):
        return "other"
    if not _same_repository(first, second):
        return "unproven"
    if revisions_differ(first.revision, second.revision):
        return "other"
    is_pinned = first.revision is not None and _COMMIT.fullmatch(first.revision)
    return "same" if is_pinned and first.revision == second.revision else "unproven"


def is_hub_id(path: str) -> bool:
    """Whether a path is written as a hub id is."""
    return path.count("/") == 1 and not path.startswith(("/", ".", "~"))


def same_hub_id(first: str, second: str) -> bool:
    """Whether two hub ids mean one repository: the family was published under two names."""
    if not (is_hub_id(first) and is_hub_id(second)):
        return False
    facts = published_facts(first)
    return first == second or (facts is not None and facts == published_facts(second))


def revisions_differ(first: str | None, second: str | None) -> bool:
    """Whether two revisions of one repository are two for certain: a branch may be any commit."""
    if first is None or second is None:
        return False
    return first != second and bool(_COMMIT.fullmatch(first)) == bool(_COMMIT.fullmatch(second))


def base_problem(card: AdapterCard, base: NamedBase) -> str | None:
    """Why an adapter is not of a base, to stand after its name; None where nothing says so."""
    named = base_of_card(card)
    if compare(named, base) != "other":
        return None
    return f"its card names the base {named}, and this is {base}; use the base that it names"


def base_doubt(card: AdapterCard, base: NamedBase) -> str | None:
    """What a person should know where nothing proves that an adapter is of a base."""
    named = base_of_card(card)
    if compare(named, base) != "unproven":
        return None
    return (
        f"nothing proves that {base} is the base {named} that its card names; converted again with "
        "the base's folder it names the bytes"
    )


def _same_repository(first: NamedBase, second: NamedBase) -> bool:
    if first.path is None or second.path is None:
        return False
    return same_hub_id(first.path, second.path)


def _other_path(first: NamedBase, second: NamedBase) -> bool:
    """Whether two paths mean two bases.

    A folder may be a copy of a hub's repository, which is for the kind to tell, or the bytes.
    """
    if first.path is None or second.path is None or first.path == second.path:
        return False
    if same_hub_id(first.path, second.path):
        return False
    published = [published_facts(one.path or "") for one in (first, second)]
    if any(published) and first.kind is not None and second.kind is not None:
        return False
    for one, other in ((first, second), (second, first)):
        is_copy = one.fingerprint is None and is_hub_id(one.path or "")
        if is_copy and other.fingerprint is not None and not is_hub_id(other.path or ""):
            return False
    return Path(first.path).expanduser().resolve() != Path(second.path).expanduser().resolve()
