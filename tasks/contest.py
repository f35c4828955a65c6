"""A contest between arms: a screen on held-out losses, their videos, a verdict; perhaps once more.

Loads the GPU stack: import it inside a task's body. Nothing here knows Prefect's server, MLflow or
the registry, so whoever has adapters as files can hold one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cogvx.data.manifest import Manifest
from cogvx.evaluation.documents import ArmResult, EvaluationReport
from cogvx.evaluation.judge import judge
from cogvx.evaluation.render import Arm, Footage
from cogvx.evaluation.suite import Suite
from tasks.measure import (
    Losses,
    MeasuredArm,
    measure_losses,
    one_session,
    render_here,
    score_footage,
)
from tasks.workbench import Workbench


@dataclass(frozen=True)
class Match:
    """Who meets whom, on what.

    Attributes:
        model: Name of the registered model.
        arms: The base, then the champion if there is one, then the challenger.
        suite: Of this look: the second one has more seeds.
        manifest: Whose held-out clips losses are measured on.
        losses: Of every arm.
        provenance: What the page should say of where all this comes from; no secrets.
    """

    model: str
    arms: tuple[Arm, ...]
    suite: Suite
    manifest: Manifest
    losses: Losses
    provenance: Mapping[str, str]


@dataclass(frozen=True)
class Contested:
    """What came of it; without videos where the screen ended it."""

    report: EvaluationReport
    arms: tuple[MeasuredArm, ...]


def hold_contest(
    bench: Workbench,
    arms: Sequence[Arm],
    suite: Suite,
    manifest: Manifest,
    *,
    model: str,
    provenance: Mapping[str, str],
) -> Contested:
    """Measure, render what is missing, and judge the last arm against the one before it.

    Everything is kept in the store of the bench as it is finished, so it can be killed and called
    again: held-out losses are not measured twice, and no video is rendered twice.

    Args:
        bench: The recipe's workbench; its base is loaded at most once.
        arms: The base, then the champion if there is one, then the challenger.
        suite: Prompts, seeds and the rule.
        manifest: Whose held-out clips losses are measured on.
        model: Name of the registered model.
        provenance: What the page should say of where all this comes from; no secrets.

    Raises:
        RecordsLost: Records of the held-out clips are absent or damaged.
        IntegrityError: An adapter does not fit the base, or what was kept is damaged.
    """
    open_session = one_session(bench)
    losses = measure_losses(bench, arms, manifest, open_session)
    match = Match(model, tuple(arms), suite, manifest, losses, provenance)

    def footage(arm: Arm, suite: Suite) -> Footage:
        return render_here(bench, arm, suite, open_session)

    return judge_videos(bench, match, footage)


def judge_videos(
    bench: Workbench, match: Match, footage: Callable[[Arm, Suite], Footage]
) -> Contested:
    """Score every arm's videos under the match's suite, and judge."""
    measured = tuple(
        score_footage(
            bench,
            arm,
            footage(arm, match.suite),
            suite=match.suite,
            losses=match.losses[arm.name],
        )
        for arm in match.arms
    )
    return Contested(report_on(match, [arm.result for arm in measured]), measured)


def report_on(match: Match, results: Sequence[ArmResult]) -> EvaluationReport:
    """The verdict on the last arm, and everything that it rests on."""
    return judge(
        match.suite,
        model=match.model,
        candidate=results[-1],
        reference=results[-2],
        base=results[0] if len(results) > 2 else None,
        provenance=match.provenance,
    )
