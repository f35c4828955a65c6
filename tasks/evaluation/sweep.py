"""The challenger at other weights, on a suite to choose on; part of the report, not of the verdict.

Loads the GPU stack: import it inside a task's body. Videos are named by their content, so weights
that were drawn once are not drawn again, and weight 1 is the challenger itself.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cogvx.data.manifest import Manifest
from cogvx.evaluation.documents import EvaluationReport, SweepPoint
from cogvx.evaluation.gauge import Gauge
from cogvx.evaluation.render import Arm, Footage
from cogvx.evaluation.suite import Suite, load_suite
from cogvx.evaluation.sweep import one_seed_each, points_of, weight_to_try
from tasks.evaluation.contest import Match
from tasks.evaluation.gauges import Surroundings, gauges_for, grey_clips
from tasks.evaluation.measure import Measurer, measure_losses, score_footage
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """What is drawn: the base and the challenger at each weight, in this order, one seed each."""

    suite: Suite
    weights: tuple[float, ...]
    arms: tuple[Arm, ...]


def sweep_of(bench: Workbench, challenger: Arm) -> Sweep | None:
    """The sweep that the recipe asks for; None where it asks for none.

    Raises:
        ConfigError: The suite cannot be read.
    """
    asked = bench.recipe.evaluation.sweep
    if asked is None:
        return None
    weights = tuple(sorted(asked.weights))
    return Sweep(
        suite=one_seed_each(load_suite(Path(asked.suite))),
        weights=(0.0, *weights),
        arms=(Arm("base"), *(_at(challenger, weight) for weight in weights)),
    )


def with_sweep(
    bench: Workbench,
    report: EvaluationReport,
    match: Match,
    *,
    footage: Callable[[Arm, Suite], Footage],
    measurer: Measurer,
) -> EvaluationReport:
    """The same report, and beside its verdict the challenger at other weights, if anyone asks.

    See `sweep_points`.
    """
    sweep = sweep_of(bench, match.arms[-1])
    if sweep is None:
        return report
    points = sweep_points(bench, sweep, match.manifest, footage=footage, measurer=measurer)
    tried = weight_to_try(points)
    said = {} if tried is None else {"weight to try": tried}
    return report.model_copy(update={"sweep": points, "provenance": report.provenance | said})


def sweep_points(
    bench: Workbench,
    sweep: Sweep,
    manifest: Manifest,
    *,
    footage: Callable[[Arm, Suite], Footage],
    measurer: Measurer,
) -> tuple[SweepPoint, ...]:
    """Measure what was drawn. Image networks do not look at it: it is a curve, not a comparison.

    Args:
        bench: The recipe's workbench; its store keeps what is found.
        sweep: From `sweep_of`.
        manifest: Whose held-out clips losses are measured on.
        footage: Brings an arm's videos here; one that is lacking costs its weight the metrics of
            videos.
        measurer: Asked only for losses and drifts that were never measured.

    Raises:
        RecordsLost: Records of the held-out clips are absent or damaged.
        IntegrityError: What was kept is damaged.
    """
    losses = measure_losses(bench, sweep.arms, manifest, measurer)
    drawn = [footage(arm, sweep.suite) for arm in sweep.arms]
    base_videos = {(video.prompt_id, video.seed): video.path for video in drawn[0].videos}
    grey, _ = grey_clips(bench, manifest)  # the verdict has told of lost clips
    around = Surroundings(grey, networks=None)
    points: list[SweepPoint] = []
    for weight, arm, shown in zip(sweep.weights, sweep.arms, drawn, strict=True):

        def gauges(arm: Arm = arm) -> Sequence[Gauge]:
            measurer.require(arm)
            return gauges_for(
                bench,
                arm,
                around,
                suite=sweep.suite,
                base_videos=base_videos,
                open_session=measurer.open_session,
            )

        measured = score_footage(
            bench, arm, shown, suite=sweep.suite, losses=losses[arm.name], gauges=gauges
        )
        for fault in (*(video.why for video in shown.unmade), *measured.result.faults):
            logger.warning("%s, in the sweep: %s", arm.name, fault)
        result = measured.result.model_copy(
            update={"videos": tuple(video for video in measured.result.videos if video.values)}
        )
        points += points_of(weight, result, videos=sweep.suite.videos)
    return tuple(points)


def _at(challenger: Arm, weight: float) -> Arm:
    adapters = (replace(each, weight=each.weight * weight) for each in challenger.adapters)
    return Arm(f"{challenger.name} at {weight!r}", tuple(adapters))
