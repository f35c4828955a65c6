"""What `cogvx up` writes down about what it started, so that other commands find and end it.

It lies in `home/up/state.json`, and the logs beside it. The lock says whether anybody is at work
there: the kernel lets go of it when its holder ends. Which catalog a person named last outlives all
of that.
"""

import fcntl
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cogvx.errors import IntegrityError, TransientError
from cogvx.files import read_document, write_bytes, write_document
from tasks.clients.processes import Mark

Status = Literal["starting", "running", "waiting to start again", "given up"]
Phase = Literal["starting", "up", "stopping"]
EXTRA_SECONDS = 25.0
"""Beside a service's own time: for a worker without runs, and for what looks after services."""


class Document(BaseModel):
    """Frozen, and open to fields that a later version adds: an earlier one can stop that."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ServiceState(Document):
    """One program: `processes` are what looks after it, and the program itself.

    `grace` is how many seconds it may take to stop.
    """

    name: str
    title: str
    status: Status
    since: datetime
    starts: int
    processes: tuple[Mark, ...]
    log: Path
    health: str = ""
    pool: str = ""
    gpus: str = ""
    grace: float


class _AnyState(Document):
    """What all versions write."""

    keeper: Mark


class UpState(Document):
    """All that runs, who keeps it, and where its pages are.

    `folder` is the one that relative paths of recipes mean. `environment` is what workers were
    given and other commands need as well, in the words of a shell.
    """

    keeper: Mark
    since: datetime
    phase: Phase
    home: Path
    folder: Path
    catalog: Path
    prefect: str
    mlflow: str
    s3: str = ""
    environment: dict[str, str]
    services: tuple[ServiceState, ...] = ()

    @property
    def is_kept(self) -> bool:
        """Whether the process that started all this lives."""
        return self.keeper.lives

    @property
    def stop_seconds(self) -> float:
        """The longest that stopping everything takes."""
        graces = {bool(one.pool): 0.0 for one in self.services}
        for one in self.services:
            graces[bool(one.pool)] = max(graces[bool(one.pool)], one.grace)
        # servers are stopped after the workers, and the S3 server after those
        return graces.get(True, 0.0) + 2 * graces.get(False, 0.0) + 3 * EXTRA_SECONDS

    @property
    def left(self) -> tuple[Mark, ...]:
        """Processes of services that live."""
        return tuple(mark for one in self.services for mark in one.processes if mark.lives)


class Desk:
    """The folder in which `up` keeps its state and logs."""

    def __init__(self, home: Path) -> None:
        """Nothing is made yet."""
        self.folder = home.resolve() / "up"
        self._file = self.folder / "state.json"
        self._lock = self.folder / "lock"
        self._catalog = self.folder / "catalog"

    @property
    def output(self) -> Path:
        """What `up` itself says when it is in the background."""
        return self.folder / "up.log"

    @property
    def is_there(self) -> bool:
        """Whether what was held is still in its place: a home may be removed while it is used."""
        return self._lock.exists()

    def log(self, name: str) -> Path:
        """What a service prints."""
        return self.folder / f"{name}.log"

    def read(self) -> UpState | None:
        """What was written last; None if nothing is or was left there.

        Raises:
            IntegrityError: It is not such a document; says how to be rid of it.
        """
        try:
            return read_document(self._file, UpState)
        except FileNotFoundError:
            return None
        except IntegrityError as error:
            raise IntegrityError(
                f"{self._file} is damaged, or of another version, {self._way_out()}"
            ) from error

    def write(self, state: UpState) -> None:
        """Replace what was written; a machine that loses power has nothing running to find."""
        write_document(self._file, state)

    def clear(self) -> None:
        """Nothing runs any more."""
        self._file.unlink(missing_ok=True)

    @property
    def catalog(self) -> Path | None:
        """The catalog that a person named last; None if nobody ever did."""
        try:
            return Path(os.fsdecode(self._catalog.read_bytes()))
        except FileNotFoundError:
            return None

    @property
    def command(self) -> str:
        """What starts it with the same catalog, in the words of a shell."""
        named = self.catalog
        return "cogvx up" if named is None else f"cogvx up --catalog {shlex.quote(str(named))}"

    def remember(self, catalog: Path) -> None:
        """What a later `up` means that names none."""
        write_bytes(self._catalog, os.fsencode(catalog.resolve()))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the one who keeps services for this home, until the block ends.

        Raises:
            TransientError: Somebody else is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise TransientError(
                    f"another `cogvx up` is at work in {self.folder}; `cogvx status` shows it"
                ) from error
            yield

    def _way_out(self) -> str:
        """What a person does about a state that says nothing to this version."""
        try:
            with self.held():
                where = shlex.quote(str(self._file))
                return f"and nobody is at work there, so remove it: `rm {where}`"
        except TransientError:
            who = self._keeper_alone()
        how = f"the process that holds {self._lock} (see `lslocks`)"
        if who is not None:
            how = f"`kill {who.pid}`"
        return f"and its `up` still runs: end that first, {how}; it takes the file along"

    def _keeper_alone(self) -> Mark | None:
        """Who keeps services, of a state of which nothing else is known."""
        try:
            found = read_document(self._file, _AnyState).keeper
        except (IntegrityError, FileNotFoundError):
            return None
        return found if found.lives else None


def now() -> datetime:
    """This moment."""
    return datetime.now(UTC)
