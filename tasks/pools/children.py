"""Several runs of one flow: what each is given, and how each ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

ReportT = TypeVar("ReportT")


@dataclass(frozen=True)
class Child:
    """One of several runs of a flow.

    `key` is made of the digests of what the child works on: two children with the same key would do
    the same work. The flow run carries it as a tag, by which other runs of that work are found.
    """

    name: str
    key: str
    parameters: Mapping[str, Any]

    @property
    def tag(self) -> str:
        """The tag of its flow runs."""
        return f"key:{self.key[:16]}"


@dataclass(frozen=True)
class Ended(Generic[ReportT]):
    """How a child ended: it has either a report or an error.

    `page` is where a person sees its flow run, if it ran elsewhere and there are pages.
    """

    child: Child
    seconds: float
    report: ReportT | None = None
    error: BaseException | None = None
    page: str = ""


@dataclass(frozen=True)
class Seen:
    """A child as it was last seen, for people.

    `state` is Prefect's name for it; `seconds` is how long it has worked; `told` is why it ended as
    it did, where it did not end well.
    """

    name: str
    state: str
    seconds: float = 0.0
    page: str = ""
    told: str = ""
