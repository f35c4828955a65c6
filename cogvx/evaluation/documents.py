"""What an evaluation hands on: the scores of an arm, the verdict, and the report that holds both.

All frozen, all canonical JSON, no NaN: a number that is not finite becomes a fault in words.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from cogvx.evaluation.suite import SamplingConfig

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


class ArmResult(_Document):
    """Everything measured of one arm under one suite."""

    name: str
    suite: str
    adapters: tuple[AdapterUse, ...] = ()
    videos: tuple[VideoScore, ...] = ()
    heldout: tuple[HeldoutScore, ...] = ()
    faults: tuple[str, ...] = ()

    def values(self, metric: str) -> dict[tuple[str, int], float]:
        """A video metric by prompt and seed."""
        return {
            (video.prompt, video.seed): video.values[metric]
            for video in self.videos
            if metric in video.values
        }

    def losses(self) -> dict[tuple[str, int], float]:
        """Held-out loss by clip and timestep."""
        return {(score.clip, score.timestep): score.loss for score in self.heldout}


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
    `limit` is a guard's margin or a ceiling's limit.
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


class Verdict(_Document):
    """What the written rule says, with every number it used and every reason as a sentence.

    The composite is in yardsticks, or in the metric's own unit where it has a single primary
    without one.
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


class EvaluationReport(_Document):
    """One evaluation in long form: everything that the page shows, and nothing else.

    `provenance` holds what the caller knows of the run: digests, versions, paths, settings.
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
    verdict: Verdict
    provenance: dict[str, str]

    def arm(self, role: ArmRole) -> ArmSummary | None:
        """The arm that plays a role; without a champion the reference is the base itself."""
        return next((arm for arm in self.arms if arm.role == role), None)
