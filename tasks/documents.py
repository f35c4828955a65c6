"""What the stages hand on and print: small JSON documents, one a stage."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from cogvx.data.diff import ManifestDiff
from cogvx.data.manifest import Refused
from cogvx.preflight.compare import Measured

DeviceKind = Literal["gpu", "cpu"]
SpendingStage = Literal["cache", "train", "generate", "measure"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardReport(_Document):
    """What one shard made of its plan, and the clips that cannot be used.

    What it wanted and did not encode was made by another worker, or must be planned again. It held
    one device of this kind for so many seconds; 0 of a report from before that was measured.
    """

    records_wanted: int
    records_encoded: int
    refused: tuple[Refused, ...] = ()
    seconds: float = 0.0
    device: DeviceKind = "cpu"


class CacheReport(_Document):
    """What the cache stage found and did.

    `manifest` is the digest of the accepted clips, `index` that of their records' list. `diff` is
    what this manifest changed; None where there was none before it. `page` shows the clips to a
    person; empty where it could not be made this time.
    """

    dataset: str
    manifest: str
    index: str
    accepted: int
    heldout: int
    rejected: dict[str, int]
    records_encoded: int
    records_reused: int
    diff: ManifestDiff | None = None
    page: str = ""


class TrainReport(_Document):
    """The adapter of a run; `trained` is False when it was there already.

    `best_step` is the update whose weights it has, if not simply the last.
    """

    run: str
    trained: bool
    steps: int
    best_step: int | None = None
    resumed_from: int | None
    train_loss: float | None
    heldout_before: float | None
    heldout_after: float | None
    measured: Measured | None = None
    adapter: str
    adapter_sha256: str


class RegisterReport(_Document):
    """The registered version; `created` is False when this run was registered before."""

    name: str
    version: int
    aliases: tuple[str, ...]
    created: bool


class EvaluateReport(_Document):
    """The verdict on a version and where a person reads why."""

    name: str
    version: int
    reference: str
    verdict: str
    reasons: tuple[str, ...]
    report: str
    sheet: str
    videos_rendered: int
    videos_reused: int


class PromoteReport(_Document):
    """What happened to the aliases, in a sentence; `needs_person` if a person is to decide."""

    name: str
    version: int
    promoted: bool
    aliases: tuple[str, ...]
    reason: str
    needs_person: bool = False


class Unchanged(_Document):
    """Nothing changed since this version was judged; `review` is what a person said of it."""

    name: str
    version: int
    aliases: tuple[str, ...]
    verdict: str
    review: str = ""


class StageCost(_Document):
    """What one stage held of one kind of device: seconds of all devices together, and the money.

    `money` is None where no price is set; a CPU costs none. `made` counts records or videos.
    """

    stage: SpendingStage
    device: DeviceKind
    attempts: int
    device_seconds: float
    made: int = 0
    money: float | None = None

    @property
    def gpu_seconds(self) -> float:
        """Of GPUs alone."""
        return self.device_seconds if self.device == "gpu" else 0.0


class Saved(_Document):
    """What was there already and so was not made, at what it took before; None before the first."""

    stage: SpendingStage
    reused: int
    device: DeviceKind = "cpu"
    device_seconds: float | None = None
    money: float | None = None


class CostReport(_Document):
    """What one adapter cost, everything that was spent for its model since the one before it.

    `history` is over all adapters of the model, this one included, of which `promoted` versions
    became champion. `unit` is what money is counted in, for people.
    """

    model: str
    run: str
    stages: tuple[StageCost, ...]
    saved: tuple[Saved, ...] = ()
    adapters: int = 1
    promoted: int = 0
    history: tuple[StageCost, ...] = ()
    unit: str = ""


class RetrainReport(_Document):
    """One retraining from clips to verdict; or `unchanged` alone when there was nothing to do."""

    unchanged: Unchanged | None = None
    cache: CacheReport | None = None
    train: TrainReport | None = None
    register_: RegisterReport | None = None
    evaluate: EvaluateReport | None = None
    promote: PromoteReport | None = None
    cost: CostReport | None = None


class WatchReport(_Document):
    """What a look at a dataset's listing found; files are videos and what may caption them.

    A change is announced by one watcher alone. A dataset without a single video is empty.
    """

    state: Literal["unchanged", "empty", "announced", "announced elsewhere"]
    dataset: str
    files: int
    added: int = 0
    removed: int = 0
    changed: int = 0
