"""A contest between arms: a screen on held-out losses, their videos, a verdict; perhaps once more.

Loads the GPU stack: import it inside a task's body. Nothing here knows Prefect's server, MLflow or
the registry, so whoever has adapters as files can hold one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from cogvx.data.manifest import Manifest
from cogvx.evaluation.documents import ArmResult, ArmRole, Change, EvaluationReport
from cogvx.evaluation.gauge import Gauge
from cogvx.evaluation.judge import judge, report_of
from cogvx.evaluation.looks import more_seeds, wants_second_look
from cogvx.evaluation.render import Arm, Footage
from cogvx.evaluation.screen import screen
from cogvx.evaluation.suite import Suite
from cogvx.evaluation.wording import Contest
from tasks.evaluation.gauges import Surroundings, gauges_for, look_around
from tasks.evaluation.measure import (
    Losses,
    MeasuredArm,
    Measurer,
    measure_losses,
    render_here,
    score_footage,
)
from tasks.evaluation.networks import provenance_of
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
        changes: What differs between the recipes of champion and challenger.
        look: The second comes once, after a HOLD that more seeds could turn.
    """

    model: str
    arms: tuple[Arm, ...]
    suite: Suite
    manifest: Manifest
    losses: Losses
    provenance: Mapping[str, str]
    changes: tuple[Change, ...] = ()
    look: Literal[1, 2] = 1

    @property
    def roles(self) -> dict[ArmRole, Arm]:
        """The arms by what they are in the report; a base that is the reference is only that."""
        names: tuple[ArmRole, ...] = ("candidate", "reference", "base")
        return dict(zip(names, reversed(self.arms), strict=False))

    def second_look(self) -> "Match":
        """The same with two more seeds."""
        return replace(self, suite=more_seeds(self.suite), look=2)


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
        ConfigError: The recipe's networks cannot be had.
        RecordsLost: Records of the held-out clips are absent or damaged.
        IntegrityError: An adapter does not fit the base, or what was kept is damaged.
    """
    measurer = Measurer.here(bench)
    losses = measure_losses(bench, arms, manifest, measurer)
    match = Match(model, tuple(arms), suite, manifest, losses, provenance)
    stopped = stop_early(bench, match)
    if stopped is not None:
        return stopped
    around = look_around(bench, suite, manifest)

    def judged(match: Match) -> Contested:
        footage = [
            render_here(bench, arm, match.suite, measurer.open_session) for arm in match.arms
        ]
        return judge_videos(bench, match, footage, around, measurer)

    first = judged(match)
    if not wants_second_look(first.report.verdict, suite.gate):
        return first
    return judged(match.second_look())


def stop_early(bench: Workbench, match: Match) -> Contested | None:
    """The end of a match whose held-out losses tell enough; None where videos must decide."""
    roles = match.roles
    contest = Contest(match.suite, roles["reference"].name, roles["candidate"].name)
    losses = {
        role: {(loss.clip, loss.timestep): loss.loss for loss in match.losses[arm.name]}
        for role, arm in roles.items()
    }
    verdict = screen(contest, losses)
    if verdict is None:
        return None
    measured = tuple(
        score_footage(bench, arm, Footage(()), suite=match.suite, losses=match.losses[arm.name])
        for arm in match.arms
    )
    results = _by_role(match, measured)
    report = report_of(
        match.suite,
        verdict,
        model=match.model,
        candidate=results["candidate"],
        reference=results["reference"],
        base=results.get("base"),
        provenance=match.provenance,
    )
    return Contested(report.model_copy(update={"changes": match.changes}), measured)


def judge_videos(
    bench: Workbench,
    match: Match,
    footage: Sequence[Footage],
    around: Surroundings,
    measurer: Measurer,
) -> Contested:
    """Score every arm's videos under the match's suite, and judge.

    Args:
        bench: The recipe's workbench.
        match: Who meets whom, at which look.
        footage: Of every arm, in their order.
        around: What all arms are measured beside.
        measurer: Asked only for drifts and losses that were never measured.
    """
    base_videos = {(video.prompt_id, video.seed): video.path for video in footage[0].videos}

    def gauges(arm: Arm) -> Sequence[Gauge]:
        measurer.require(arm)
        return gauges_for(
            bench,
            arm,
            around,
            suite=match.suite,
            base_videos=base_videos,
            open_session=measurer.open_session,
        )

    measured = tuple(
        score_footage(
            bench,
            arm,
            shown,
            suite=match.suite,
            losses=match.losses[arm.name],
            gauges=partial(gauges, arm),
        )
        for arm, shown in zip(match.arms, footage, strict=True)
    )
    results = _by_role(match, measured)
    report = judge(
        match.suite,
        model=match.model,
        candidate=results["candidate"],
        reference=results["reference"],
        base=results.get("base"),
        provenance={**match.provenance, **provenance_of(bench, around.networks)},
        look=match.look,
        limits=around.limits,
    )
    told = {"reasons": (*around.remarks, *report.verdict.reasons)}
    verdict = report.verdict.model_copy(update=told)
    return Contested(
        report.model_copy(update={"changes": match.changes, "verdict": verdict}), measured
    )


def _by_role(match: Match, measured: Sequence[MeasuredArm]) -> dict[ArmRole, ArmResult]:
    found = {each.arm.name: each.result for each in measured}
    return {role: found[arm.name] for role, arm in match.roles.items()}
