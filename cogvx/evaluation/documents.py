"""What an evaluation hands on: the scores of an arm, the verdict, and the report that holds both.

All frozen, all canonical JSON, no NaN: a number that is not finite becomes a fault in words.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from cogvx.evaluation.suite import SamplingConfig
from cogvx.evaluation.suite_rule import Group

Outcome = Literal["PROMOTE", "HOLD", "REJECT", "INVALID"]
Role = Literal["primary", "guard", "ceiling", "info"]
Result = Literal["better", "not worse", "under limit", "undecided", "worse", "over limit", "info"]
ArmRole = Literal["base", "reference", "candidate"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterUse(_Document):
    """An adapter file and the weight that it acts with; its own strength is 1."""

    sha256: str
    weight: float


class VideoScore(_Document):
    """One video of one arm: its name in the store, its metrics, and what is wrong with it."""

    prompt: str
    seed: int
    key: str
    values: dict[str, float]
    faults: tuple[str, ...] = ()


class HeldoutScore(_Document):
    """Denoising loss of one held-out clip at one timestep; mean squared error of v."""

    clip: str
    timestep: int
    loss: float


class Reading(_Document):
    """A number that no single video has: of a prompt, at a draw (a timestep, or 0)."""

    metric: str
    unit: str
    draw: int
    value: float


class Neighbour(_Document):
    """The training clip that a video resembles most, by a metric of memorisation."""

    prompt: str
    seed: int
    metric: str
    clip: str
    similarity: float


class ArmResult(_Document):
    """Everything measured of one arm under one suite."""

    name: str
    suite: str
    adapters: tuple[AdapterUse, ...] = ()
    videos: tuple[VideoScore, ...] = ()
    heldout: tuple[HeldoutScore, ...] = ()
    readings: tuple[Reading, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    faults: tuple[str, ...] = ()

    def values(self, metric: str) -> dict[tuple[str, int], float]:
        """A metric of videos or prompts, by prompt and seed or draw."""
        of_videos = {
            (video.prompt, video.seed): video.values[metric]
            for video in self.videos
            if metric in video.values
        }
        return of_videos | {
            (reading.unit, reading.draw): reading.value
            for reading in self.readings
            if reading.metric == metric
        }

    def losses(self) -> dict[tuple[str, int], float]:
        """Held-out loss by clip and timestep."""
        return {(score.clip, score.timestep): score.loss for score in self.heldout}


class Limit(_Document):
    """A limit that was measured: what so many held-out clips reach, all but those above."""

    value: float
    clips: int
    above: int


class Chance(_Document):
    """How many prompts have a video over a limit that was measured, and how many chance allows."""

    clips: int
    prompts: int
    over: int
    allowed: int


class Effect(_Document):
    """A paired effect over prompts or clips, turned so that more is better.

    For a metric without a better side it is plainly candidate minus reference. Bounds are absent
    below two units; `confidence` is that of one bound.
    """

    units: int
    mean: float
    low: float | None
    high: float | None
    confidence: float
    won: int
    lost: int
    bca_low: float | None = None
    bca_high: float | None = None
    wilcoxon_p: float | None = None


class Comparison(_Document):
    """One metric: both arms' means, the effect in the metric's unit, and what the rule says of it.

    `yardstick` is one seed SD of the reference (for the held-out loss, its SD between clips);
    `limit` is a guard's margin or a ceiling's limit; `groups` are those of the prompts that it is
    over, where that is not all; `detectable` is the smallest true effect that so many units find in
    four evaluations of five; `against` is the arm that it is compared with where that is not the
    verdict's reference; `chance` belongs to ceilings whose limit was measured.
    """

    metric: str
    unit: str
    direction: Literal[-1, 0, 1]
    role: Role
    per: Literal["prompt", "clip"]
    base: float | None
    reference: float
    candidate: float
    effect: Effect
    yardstick: float | None
    limit: float | None
    result: Result
    sentence: str
    groups: tuple[Group, ...] | None = None
    detectable: float | None = None
    against: str | None = None
    chance: Chance | None = None

    @property
    def label(self) -> str:
        """What tells this row from others of its metric."""
        over = "" if self.groups is None else f" on {', '.join(self.groups)}"
        return self.metric + over + ("" if self.against is None else f" against {self.against}")


class Verdict(_Document):
    """What the written rule says, with every number it used and every reason as a sentence.

    The composite is in yardsticks, or in the metric's own unit where it has a single primary
    without one; `detectable` is the smallest true one that so many units find in four evaluations
    of five. `rule` is the version of the written rule, `stage` how far the evaluation went, and
    `look` whether seeds were added after a HOLD.
    """

    schema_version: Literal[1] = 1
    outcome: Outcome
    headline: str
    reasons: tuple[str, ...]
    next_step: str
    reference: str
    candidate: str
    suite: str
    composite: Effect | None
    comparisons: tuple[Comparison, ...]
    rule: int = 2
    stage: Literal["screen", "videos"] = "videos"
    look: Literal[1, 2] = 1
    detectable: float | None = None


class ArmSummary(_Document):
    """An arm of a report."""

    name: str
    role: ArmRole
    adapters: tuple[AdapterUse, ...]


class Score(_Document):
    """One number of one video."""

    arm: str
    prompt: str
    seed: int
    metric: str
    value: float


class VideoRecord(_Document):
    """Where a video lies in the store, and what is wrong with it."""

    arm: str
    prompt: str
    seed: int
    key: str
    faults: tuple[str, ...]


class ArmHeldout(_Document):
    """One held-out loss of one arm."""

    arm: str
    clip: str
    timestep: int
    loss: float


class ArmReading(Reading):
    """A reading of one arm."""

    arm: str


class ArmNeighbour(Neighbour):
    """A neighbour of one arm's video."""

    arm: str


class SweepPoint(_Document):
    """The challenger at one weight: a metric's mean over the sweep's videos."""

    weight: float
    metric: str
    value: float


class Change(_Document):
    """One setting that differs between the recipes of reference and candidate."""

    setting: str
    reference: str
    candidate: str


class EvaluationReport(_Document):
    """One evaluation in long form: everything that the page shows, and nothing else.

    `provenance` holds what the caller knows of the run: digests, versions, paths, settings.
    `limits` are those of ceilings that were measured rather than declared, by metric; `groups` are
    those of the prompts, by id.
    """

    schema_version: Literal[1] = 1
    model: str
    suite_name: str
    suite: str
    sampling: SamplingConfig
    prompts: dict[str, str]
    seeds: tuple[int, ...]
    arms: tuple[ArmSummary, ...]
    videos: tuple[VideoRecord, ...]
    scores: tuple[Score, ...]
    heldout: tuple[ArmHeldout, ...]
    readings: tuple[ArmReading, ...] = ()
    neighbours: tuple[ArmNeighbour, ...] = ()
    sweep: tuple[SweepPoint, ...] = ()
    changes: tuple[Change, ...] = ()
    limits: dict[str, float] = {}
    groups: dict[str, Group] = {}
    verdict: Verdict
    provenance: dict[str, str]

    def is_over(self, row: Comparison, prompt: str) -> bool:
        """Whether a line of the verdict is over a prompt."""
        return row.groups is None or self.groups.get(prompt) in (None, *row.groups)

    def arm(self, role: ArmRole) -> ArmSummary | None:
        """The arm that plays a role; without a champion the reference is the base itself."""
        return next((arm for arm in self.arms if arm.role == role), None)
