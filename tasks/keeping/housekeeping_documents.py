"""What housekeeping of the store hands on and prints: small JSON documents, one for each act."""

from pydantic import BaseModel, ConfigDict


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DamagedRecord(_Document):
    """A damaged record, the clips or captions that it is of, and what is wrong."""

    key: str
    of: str
    why: str


class VerifyReport(_Document):
    """What reading records showed; `missing` are those that a recipe needs and the store lacks.

    `dropped` counts damaged ones that were removed.
    """

    store: str
    verified: int
    bytes: int
    missing: int
    damaged: tuple[DamagedRecord, ...]
    dropped: int


class Group(_Document):
    """A number of objects that have something in common, and their bytes."""

    name: str
    objects: int
    bytes: int


class PruneReport(_Document):
    """What may go, or went if `applied`, by kind; and why the rest stays."""

    store: str
    applied: bool
    goes: tuple[Group, ...]
    stays: tuple[Group, ...]

    @property
    def objects(self) -> int:
        """How many objects go."""
        return sum(group.objects for group in self.goes)

    @property
    def bytes(self) -> int:
        """How large they are."""
        return sum(group.bytes for group in self.goes)


class Going(_Document):
    """Objects of one kind that may go for one reason, some of them by name."""

    kind: str
    why: str
    objects: int
    bytes: int
    examples: tuple[str, ...]


class VersionFate(_Document):
    """Whether a registered version keeps what it needs in the store, and why.

    `leaves` is the day from which on it may go; `bytes` are what nobody else needs of it.
    """

    name: str
    stays: bool
    why: str
    leaves: str = ""
    bytes: int = 0


class RetentionReport(_Document):
    """What may go, or went if `applied`, by kind and reason; what becomes of every version."""

    store: str
    applied: bool
    goes: tuple[Going, ...]
    stays: tuple[Group, ...]
    versions: tuple[VersionFate, ...]

    @property
    def objects(self) -> int:
        """How many objects go."""
        return sum(going.objects for going in self.goes)

    @property
    def bytes(self) -> int:
        """How large they are."""
        return sum(going.bytes for going in self.goes)


class InspectReport(_Document):
    """One record: facts as pairs of a name and a text, and the video that was written of it."""

    facts: tuple[tuple[str, str], ...]
    video: str | None
