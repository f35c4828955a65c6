"""The run folder: what the trainer reads, what it leaves behind.

run.json                 RunSpec: the resolved recipe and the digests of what went in
begun.json               the same as it was when training began
records/<key>.safetensors   materialised records
fork.safetensors         the weights that a run with `train.fork_of` begins with
events.jsonl             one JSON object a line, in the order of time (see `events`)
checkpoints/step-*/      whole or absent; `latest.json` points at the newest, written last
first_batch.json         what the proof of the first batch is made from
first_batch/             the first batch decoded, for a person: a page, a picture, videos
adapter/                 the exported adapter, present once training has finished
outcome.json             TrainOutcome, also when training failed

Beside these the launcher keeps accelerate.json, the configuration that it started the trainer with.
One launcher at a time holds `lock`, and one trainer `trainer.lock`: a trainer may be started
without a launcher, and may outlive one that was killed by the time it needs to save.
"""

import logging
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cogvx.adapters.card import ADAPTER_FILE
from cogvx.cache.plan import Sample
from cogvx.digest import sha256_file
from cogvx.errors import ConfigError, IntegrityError
from cogvx.files import read_document
from cogvx.model.hashes import FileHashes
from cogvx.model.identity import require_base
from cogvx.preflight.compare import Measured
from cogvx.recipe import Recipe

__all__ = ["Fork", "RunFolder", "RunSpec", "Sample", "StopReason", "TrainOutcome"]

logger = logging.getLogger(__name__)


StopReason = Literal["signal", "max_hours"]
"""What a start of a run is stopped for before the run has ended."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fork(_Document):
    """The weights that a run begins with: those of another run, after so many of its updates.

    `sha256` is that of fork.safetensors.
    """

    run: str
    step: int
    sha256: str


class RunSpec(_Document):
    """Everything that decides an adapter's bits, in one document.

    `run` is the digest of recipe, manifest, base and code version: the run's identity.
    `base_revision` is the commit of a base that came from a hub; `file_hashes` is where this
    machine remembers what the base's files hashed to.
    """

    schema_version: Literal[1] = 1
    run: str
    recipe: Recipe
    manifest: str
    base_folder: str
    base_fingerprint: str
    base_revision: str | None = None
    file_hashes: str | None = None
    code_version: str
    train: tuple[Sample, ...]
    heldout: tuple[Sample, ...]
    empty_prompt: str
    fork: Fork | None = None
    warnings: tuple[str, ...] = ()

    def require_base(self) -> None:
        """Refuse a base folder that does not hold the run's base, or holds it no more.

        Raises:
            ConfigError: It holds no base at all.
            IntegrityError: It holds another one; the message names both.
        """
        hashes = FileHashes(None if self.file_hashes is None else Path(self.file_hashes))
        require_base(
            Path(self.base_folder),
            self.base_fingerprint,
            revision=self.base_revision,
            hashes=hashes,
        )
        hashes.save()


class TrainOutcome(_Document):
    """How a run ended. `error_kind` is the name of the error's class in `cogvx.errors`.

    One that was stopped, and says for what, has saved a checkpoint and goes on when started again.
    One that stopped early has completed. `best_step` is the update whose weights were exported, if
    the recipe asks for the best. Losses are means of squared error in v, `heldout_before` that of
    what the run began with (the bare base, or the forked weights) and `heldout_after` that of the
    weights that were exported.
    """

    schema_version: Literal[1] = 1
    status: Literal["completed", "failed", "stopped"]
    step: int
    steps: int
    train_loss: float | None = None
    heldout_before: float | None = None
    heldout_after: float | None = None
    seconds: float = 0.0
    resumed_from: int | None = None
    adapter_sha256: str | None = None
    stopped_for: StopReason | None = None
    stopped_early_at: int | None = None
    best_step: int | None = None
    measured: Measured | None = None
    error_kind: str | None = None
    error: str | None = None


class RunFolder:
    """Names of the parts of a run folder."""

    def __init__(self, root: Path) -> None:
        """`root` need not exist yet."""
        self.root = root
        self.spec = root / "run.json"
        self.begun = root / "begun.json"
        self.fork = root / "fork.safetensors"
        self.records = root / "records"
        self.events = root / "events.jsonl"
        self.checkpoints = root / "checkpoints"
        self.latest = root / "checkpoints" / "latest.json"
        self.proof_order = root / "first_batch.json"
        self.first_batch = root / "first_batch"
        self.adapter = root / "adapter"
        self.adapter_file = root / "adapter" / ADAPTER_FILE
        self.outcome = root / "outcome.json"
        self.lock = root / "lock"
        self.trainer_lock = root / "trainer.lock"

    def record(self, name: str) -> Path:
        """Where a materialised record lies."""
        return record_file(self.records, name)

    def read_spec(self) -> RunSpec:
        """What the run is made from.

        Raises:
            ConfigError: This is no run folder.
            IntegrityError: Its run.json is not ours.
        """
        if not self.spec.is_file():
            raise ConfigError(f"{self.root} is no run folder: it has no {self.spec.name}")
        return read_document(self.spec, RunSpec)

    def completed(self) -> TrainOutcome | None:
        """The outcome of a finished run whose adapter is still the one that it made.

        Anything less, a failed try or an adapter that was altered, is None: training goes on.
        """
        outcome = self.read_outcome()
        if outcome is None or outcome.status != "completed" or not self.adapter_file.is_file():
            return None
        return outcome if outcome.adapter_sha256 == sha256_file(self.adapter_file) else None

    def read_outcome(self) -> TrainOutcome | None:
        """How the run ended last; None where it has not, or where nobody can read it any more.

        A run that was finished then costs an export once more: its newest checkpoint is of the end.
        """
        if not self.outcome.is_file():
            return None
        try:
            return read_document(self.outcome, TrainOutcome)
        except IntegrityError:
            logger.warning(
                "%s cannot be read, so it counts as none: training goes on and writes it again",
                self.outcome,
            )
            return None


def record_file(folder: Path, name: str) -> Path:
    """Where a record lies below the folder of materialised records."""
    return folder / f"{name}.safetensors"
