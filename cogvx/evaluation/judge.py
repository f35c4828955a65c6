"""From the scores of the arms to the report: checks that they can be compared, then judges."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from cogvx.evaluation.compare import Measured
from cogvx.evaluation.documents import (
    ArmHeldout,
    ArmNeighbour,
    ArmReading,
    ArmResult,
    ArmRole,
    ArmSummary,
    EvaluationReport,
    Limit,
    Score,
    Verdict,
    VideoRecord,
)
from cogvx.evaluation.gate import Evidence, decide
from cogvx.evaluation.integrity import faults_of, remarks_of, unsound_videos
from cogvx.evaluation.suite import Suite
from cogvx.evaluation.wording import Contest
from cogvx.metrics.registry import metrics


def judge(  # noqa: PLR0913 - three arms, and what was agreed before they were measured
    suite: Suite,
    *,
    model: str,
    candidate: ArmResult,
    reference: ArmResult,
    base: ArmResult | None = None,
    provenance: Mapping[str, str],
    look: Literal[1, 2] = 1,
    limits: Mapping[str, Limit] = MappingProxyType({}),
) -> EvaluationReport:
    """Compare two arms under the suite's rule. Nothing is read, rendered or written.

    Args:
        suite: What both arms were measured under; at the second look that of `more_seeds`.
        model: Name of the registered model.
        candidate: The arm that is judged.
        reference: The champion, or the bare base while there is none.
        base: The bare base beside a champion; it takes part in the verdict only where the rule asks
            for what compares with its videos.
        provenance: What the page should say of where all this comes from; no secrets.
        look: The second comes once, after a HOLD.
        limits: Of ceilings that declare none, by metric: what held-out clips reach, and how many.
    """
    faults = faults_of(suite, reference, candidate, base)
    evidence = Evidence(
        measured={} if faults else _measured(candidate, reference, base),
        faults=faults,
        remarks=[] if faults else remarks_of(suite, reference, candidate, base),
        limits=limits,
        look=look,
    )
    report = report_of(
        suite,
        decide(Contest(suite, reference.name, candidate.name), evidence),
        model=model,
        candidate=candidate,
        reference=reference,
        base=base,
        provenance=provenance,
    )
    known = {metric: limit.value for metric, limit in limits.items()}
    return report.model_copy(update={"limits": known})


def report_of(
    suite: Suite,
    verdict: Verdict,
    *,
    model: str,
    candidate: ArmResult,
    reference: ArmResult,
    base: ArmResult | None = None,
    provenance: Mapping[str, str],
) -> EvaluationReport:
    """The report around a verdict; after a screen its arms have held-out losses alone."""
    arms = _arms(candidate, reference, base)
    return EvaluationReport(
        model=model,
        suite_name=suite.name,
        suite=suite.digest,
        sampling=suite.sampling,
        prompts={prompt.id: prompt.prompt for prompt in suite.prompts},
        groups={prompt.id: prompt.group for prompt in suite.prompts},
        seeds=suite.all_seeds,
        arms=tuple(
            ArmSummary(name=arm.name, role=role, adapters=arm.adapters) for role, arm in arms
        ),
        videos=tuple(
            VideoRecord(
                arm=arm.name,
                prompt=video.prompt,
                seed=video.seed,
                key=video.key,
                faults=video.faults,
            )
            for _, arm in arms
            for video in arm.videos
        ),
        scores=tuple(score for _, arm in arms for score in _scores(arm)),
        heldout=tuple(
            ArmHeldout(arm=arm.name, **score.model_dump())
            for _, arm in arms
            for score in arm.heldout
        ),
        readings=tuple(
            ArmReading(arm=arm.name, **reading.model_dump())
            for _, arm in arms
            for reading in arm.readings
        ),
        neighbours=tuple(
            ArmNeighbour(arm=arm.name, **near.model_dump())
            for _, arm in arms
            for near in arm.neighbours
        ),
        verdict=verdict,
        provenance=dict(provenance),
    )


def _arms(
    candidate: ArmResult, reference: ArmResult, base: ArmResult | None
) -> list[tuple[ArmRole, ArmResult]]:
    """In the order of the page."""
    first: list[tuple[ArmRole, ArmResult]] = [] if base is None else [("base", base)]
    return [*first, ("reference", reference), ("candidate", candidate)]


def _scores(arm: ArmResult) -> list[Score]:
    """In one order, whether a video was measured now or its numbers were kept."""
    return [
        Score(arm=arm.name, prompt=video.prompt, seed=video.seed, metric=metric, value=value)
        for video in arm.videos
        for metric, value in sorted(video.values.items())
    ]


def _measured(
    candidate: ArmResult, reference: ArmResult, base: ArmResult | None
) -> dict[str, Measured]:
    """Every metric that both arms have, by name."""
    found, unsound = {}, unsound_videos(reference)
    for name, metric in metrics().items():
        old, new, bare = (
            {} if arm is None else arm.losses() if metric.kind == "heldout" else arm.values(name)
            for arm in (reference, candidate, base)
        )
        if old and new:
            found[name] = Measured(metric, old, new, bare, unsound)
    return found
