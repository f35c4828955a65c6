"""The journal of a model's aliases: every decision about them, in the order they were made in.

    registry/<model>/<born>/<seq>.json             AliasMove, created once and never changed
    registry/<model>/<born>/hands/<seq>-<id>       somebody is bringing the decisions from <seq> on
                                                   to MLflow

Of writers that race for a number exactly one creates its entry; that is the compare-and-set that
MLflow does not have. `born` is when MLflow made the registered model: a model of the same name in
another MLflow, or made again after it was deleted, has other versions and so another journal.
"""

import os
import pwd
import re
import socket
import time
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from cogvx.digest import canonical_json
from cogvx.errors import IntegrityError
from cogvx.store import Absent, ObjectStore

Act = Literal["registered", "promoted", "rolled back", "moved outside"]

HANDS_LIVE_SECONDS = 3600.0
"""How long a hand counts whose owner never took it away; a killed owner cannot."""

_ENTRY = re.compile(r"(\d{8})\.json", re.ASCII)
_HAND = re.compile(r"(\d{8})-[0-9a-f]{12}", re.ASCII)
_READERS = 8


@dataclass(frozen=True)
class Reason:
    """Why aliases move, and on whose word.

    `run` is the training run behind the version, `flow_run` Prefect's; `verdict` is that of the
    evaluation at that moment, and `overruled` says that a person promoted in spite of it.
    """

    why: str
    who: str = ""
    run: str | None = None
    flow_run: str | None = None
    verdict: str | None = None
    overruled: bool = False


class AliasMove(BaseModel):
    """One decision: what the aliases were, what they are from then on, and why.

    `before` and `after` map an alias to a version; `version` is the one that it is about, if any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    model: str
    seq: int = Field(ge=1)
    act: Act
    version: int | None = None
    before: dict[str, int]
    after: dict[str, int]
    why: str
    who: str
    run: str | None = None
    flow_run: str | None = None
    verdict: str | None = None
    overruled: bool = False
    when: AwareDatetime


@dataclass(frozen=True)
class Standing:
    """What the aliases are after the decision `seq`; 0 before the first one."""

    seq: int
    aliases: Mapping[str, int]


class Journal:
    """The decisions about one registered model of one MLflow."""

    def __init__(self, store: ObjectStore, model: str, born: str) -> None:
        """Nothing is read or written yet."""
        self.model = model
        self.born = born
        self._store = store
        self._folder = f"registry/{quote(model, safe='')}/{born}/"

    def newest(self) -> Standing:
        """How the newest decision says that the aliases stand.

        Raises:
            IntegrityError: It cannot be read, so nobody knows.
        """
        seq = max(self._numbers(), default=0)
        found = self._read(seq) if seq else None
        # a store far away may list late what it already has
        while (following := self._read(seq + 1)) is not None:
            seq, found = seq + 1, following
        return Standing(seq, found.after if found else {})

    def since(self, seq: int) -> list[Standing]:
        """How the aliases stood from decision `seq` on, oldest first."""
        entries = self._read_all(number for number in self._numbers() if number >= seq)
        stood = [Standing(entry.seq, entry.after) for entry in entries]
        return stood if seq else [Standing(0, {}), *stood]

    def history(self) -> list[AliasMove]:
        """Every decision, oldest first.

        Raises:
            IntegrityError: One cannot be read.
        """
        return self._read_all(self._numbers())

    def append(self, entry: AliasMove) -> bool:
        """Make a decision, unless somebody else made the one of that number."""
        return self._store.create(self._key(entry.seq), canonical_json(entry))

    def raise_hand(self, seq: int) -> str:
        """Say that the decisions from `seq` on are being brought to MLflow; returns its key."""
        key = f"{self._folder}hands/{seq:08d}-{uuid.uuid4().hex[:12]}"
        self._store.write(key, b"")
        return key

    def lower_hand(self, key: str) -> None:
        """Say that this is done, and that the result was looked at."""
        self._store.delete(key)

    def hands(self, *, but: Iterable[str] = ()) -> list[int]:
        """The numbers for which others have their hands up; what killed ones left goes in time."""
        own, numbers = set(but), []
        for info in list(self._store.entries(f"{self._folder}hands/")):
            found = _HAND.fullmatch(info.key.rpartition("/")[2])
            if found is None or info.key in own:
                continue
            if time.time() - info.modified > HANDS_LIVE_SECONDS:
                self._store.delete(info.key)
            else:
                numbers.append(int(found[1]))
        return numbers

    def _numbers(self) -> list[int]:
        names = (info.key.removeprefix(self._folder) for info in self._store.entries(self._folder))
        return [int(found[1]) for found in map(_ENTRY.fullmatch, names) if found]

    def _read_all(self, numbers: Iterable[int]) -> list[AliasMove]:
        with ThreadPoolExecutor(_READERS) as readers:
            return [entry for entry in readers.map(self._read, numbers) if entry is not None]

    def _read(self, seq: int) -> AliasMove | None:
        key = self._key(seq)
        try:
            return AliasMove.model_validate_json(self._store.read(key))
        except Absent:
            return None
        except ValidationError as error:
            raise IntegrityError(
                f"{key} in {self._store.url} cannot be read as a decision about {self.model}; use "
                "the version of cogvx that wrote it, or see the runbook, section Models"
            ) from error

    def _key(self, seq: int) -> str:
        return f"{self._folder}{seq:08d}.json"


def new_entry(
    model: str,
    standing: Standing,
    after: Mapping[str, int],
    *,
    act: Act,
    version: int | None,
    reason: Reason,
) -> AliasMove:
    """The decision that would follow on `standing`, made now and by this process's user."""
    return AliasMove(
        model=model,
        seq=standing.seq + 1,
        act=act,
        version=version,
        before=dict(standing.aliases),
        after=dict(after),
        why=reason.why,
        who=reason.who or whoami(),
        run=reason.run,
        flow_run=reason.flow_run,
        verdict=reason.verdict,
        overruled=reason.overruled,
        when=datetime.now(UTC).replace(microsecond=0),
    )


def whoami() -> str:
    """The user of this process and its machine; a user that has no name is a number."""
    user = os.getuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = str(user)
    return f"{name}@{socket.gethostname()}"
