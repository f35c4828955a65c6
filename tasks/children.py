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
    """How a child ended: it has either a report or an error."""

    child: Child
    seconds: float
    report: ReportT | None = None
    error: BaseException | None = None
