"""What was announced of a dataset's files, so that each change of them is announced once.

    arrivals/<dataset>/<seq>.json    Arrival: the files as they were when a change was found
    arrivals/<dataset>/<seq>.sent    it was announced

Of watchers that race for a number exactly one creates its entry, and announces it. One that is
killed in between leaves an entry that is not sent, which the next watcher announces.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cogvx.data.sources import ClipFiles
from cogvx.digest import canonical_json, digest
from cogvx.errors import IntegrityError
from cogvx.store import Absent, ObjectStore

_ENTRY = re.compile(r"(\d{8})\.json", re.ASCII)
# Two entries stay: a watcher that looks for long may still compare with the one before the newest.
_KEPT = 2


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listing(_Document):
    """The files that clips and captions are read from: size in bytes and stamp, by key."""

    files: dict[str, tuple[int, str]]

    @classmethod
    def of(cls, found: ClipFiles) -> "Listing":
        """A listing of these files."""
        every = (*found.videos, *found.texts)
        return cls(files={info.key: (info.size, info.stamp) for info in every})


@dataclass(frozen=True)
class Change:
    """How many files came, went, and have other bytes or may have."""

    added: int
    removed: int
    changed: int

    @classmethod
    def between(
        cls, before: Mapping[str, tuple[int, str]], now: Mapping[str, tuple[int, str]]
    ) -> "Change":
        """From one listing's files to the next one's."""
        both = before.keys() & now.keys()
        return cls(
            added=len(now.keys() - both),
            removed=len(before.keys() - both),
            changed=sum(before[key] != now[key] for key in both),
        )


class Arrival(_Document):
    """A change of a dataset's files that one watcher found; `when` is in seconds since 1970.

    `settled` says whether two looks agreed; otherwise uploads went on for too long to wait for.
    """

    schema_version: Literal[1] = 1
    seq: int = Field(ge=1)
    dataset: str
    files: dict[str, tuple[int, str]]
    added: int
    removed: int
    changed: int
    settled: bool
    when: float

    @property
    def listing(self) -> str:
        """The digest of the files."""
        return digest(self.files)


class Announcements:
    """The arrivals of one dataset, in a store."""

    def __init__(self, store: ObjectStore, dataset: str) -> None:
        """Nothing is read yet; `dataset` says which, and under what name it is announced."""
        self._store = store
        self._dataset = dataset
        self._folder = f"arrivals/{digest(dataset)[:32]}/"

    def newest(self) -> Arrival | None:
        """The last change that somebody found, announced or not.

        Raises:
            IntegrityError: It cannot be read; the message says what to remove.
        """
        seq = max(self._numbers(), default=0)
        found = self._read(seq) if seq else None
        # a store far away may list late what it already has
        while (following := self._read(seq + 1)) is not None:
            seq, found = seq + 1, following
        return found

    def claim(self, before: Arrival | None, now: Listing, *, settled: bool) -> Arrival | None:
        """Write down that the files changed since `before`; None if somebody else was faster."""
        change = Change.between({} if before is None else before.files, now.files)
        arrival = Arrival(
            seq=1 if before is None else before.seq + 1,
            dataset=self._dataset,
            files=now.files,
            added=change.added,
            removed=change.removed,
            changed=change.changed,
            settled=settled,
            when=time.time(),
        )
        created = self._store.create(self._key(arrival.seq), canonical_json(arrival))
        return arrival if created else None

    def is_sent(self, arrival: Arrival) -> bool:
        """Whether it was announced."""
        return self._store.info(self._sent(arrival.seq)) is not None

    def note_sent(self, arrival: Arrival) -> None:
        """Remember that it was announced, and forget those of long before."""
        self._store.write(self._sent(arrival.seq), b"")
        for seq in self._numbers():
            if seq <= arrival.seq - _KEPT:
                self._store.delete(self._key(seq))
                self._store.delete(self._sent(seq))

    def _numbers(self) -> list[int]:
        names = (info.key.removeprefix(self._folder) for info in self._store.entries(self._folder))
        return [int(found[1]) for found in map(_ENTRY.fullmatch, names) if found]

    def _read(self, seq: int) -> Arrival | None:
        try:
            return Arrival.model_validate_json(self._store.read(self._key(seq)))
        except Absent:
            return None
        except ValidationError as error:
            raise IntegrityError(
                f"{self._key(seq)} in {self._store.url} cannot be read; remove {self._folder} "
                "there, and the dataset is looked at as if for the first time"
            ) from error

    def _key(self, seq: int) -> str:
        return f"{self._folder}{seq:08d}.json"

    def _sent(self, seq: int) -> str:
        return f"{self._folder}{seq:08d}.sent"
