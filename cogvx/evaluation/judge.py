"""From the scores of the arms to the report: checks that they can be compared, then judges."""

from collections.abc import Mapping

import numpy as np

from cogvx.evaluation import statistics
from cogvx.evaluation.compare import Measured
from cogvx.evaluation.documents import (
    ArmHeldout,
    ArmResult,
    ArmRole,
    ArmSummary,
    EvaluationReport,
    Score,
    Verdict,
    VideoRecord,
)
from cogvx.evaluation.gate import decide
from cogvx.evaluation.suite import Suite
from cogvx.evaluation.wording import Contest
from cogvx.metrics.registry import metrics


def judge(
    suite: Suite,
    *,
    model: str,
    candidate: ArmResult,
    reference: ArmResult,
    base: ArmResult | None = None,
    provenance: Mapping[str, str],
) -> EvaluationReport:
    """Compare two arms under the suite's rule. Nothing is read, rendered or written.

    Args:
        suite: What both arms were measured under.
        model: Name of the registered model.
        candidate: The arm that is judged.
        reference: The champion, or the bare base while there is none.
        base: The bare base, shown beside a champion; it takes no part in the verdict.
        provenance: What the page should say of where all this comes from; no secrets.
    """
    faults = [fault for arm in (reference, candidate) for fault in _arm_faults(arm, suite)]
    faults += _pairing_faults(reference, candidate)
    contest = Contest(suite, reference.name, candidate.name)
    measured = {} if faults else _measured(candidate, reference, base)
    return report_of(
        suite,
        decide(contest, measured, faults=faults),
        model=model,
        candidate=candidate,
        reference=reference,
        base=base,
        provenance=provenance,
    )


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
    return [
        Score(arm=arm.name, prompt=video.prompt, seed=video.seed, metric=metric, value=value)
        for video in arm.videos
        for metric, value in video.values.items()
    ]


def _arm_faults(arm: ArmResult, suite: Suite) -> list[str]:
    """What makes an arm unfit for any verdict."""
    faults = list(arm.faults)
    if arm.suite != suite.digest:
        faults.append(f"{arm.name} was measured under another suite ({arm.suite[:12]}).")
    wanted = {(prompt.id, seed) for prompt, seed in suite.shots}
    found = {(video.prompt, video.seed) for video in arm.videos}
    faults += [
        f"{arm.name} has no video of prompt {prompt}, seed {seed}."
        for prompt, seed in sorted(wanted - found)
    ]
    return faults + [
        f"{arm.name}'s video of prompt {video.prompt}, seed {video.seed} {fault}."
        for video in arm.videos
        for fault in video.faults
    ]


def _pairing_faults(reference: ArmResult, candidate: ArmResult) -> list[str]:
    if reference.losses().keys() == candidate.losses().keys():
        return []
    both = f"{reference.name} and {candidate.name}"
    return [f"{both} have held-out losses of different clips or timesteps."]


def _measured(
    candidate: ArmResult, reference: ArmResult, base: ArmResult | None
) -> dict[str, Measured]:
    """Every metric that both arms have, by name."""
    found = {}
    for name, metric in metrics().items():
        heldout = metric.kind == "heldout"
        old, new, bare = (
            {} if arm is None else arm.losses() if heldout else arm.values(name)
            for arm in (reference, candidate, base)
        )
        if old and new:
            mean = float(np.mean(list(statistics.by_unit(bare).values()))) if bare else None
            found[name] = Measured(metric, old, new, mean)
    return found
