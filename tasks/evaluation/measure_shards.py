"""What an evaluation must measure with the base in memory, cut into runs of `measure-shard`.

One for each arm, so that each has a process, a GPU and a failure of its own. Where the settings
name no deployment there are none: the evaluation measures in its own process.

Loads the GPU stack where it cuts: call it inside a task's body.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cogvx.digest import digest
from cogvx.errors import IntegrityError
from tasks.caching.records import RecordsLost
from tasks.evaluation.measure_documents import MeasurePlan, MeasureReport, Scene
from tasks.generation.enclosures import Enclosures
from tasks.generation.generation import read_picture
from tasks.pools.afar import elsewhere
from tasks.pools.children import Child, Ended
from tasks.pools.dispatch import require_all
from tasks.pools.fan_out import Elsewhere
from tasks.workbench import Workbench

if TYPE_CHECKING:
    from cogvx.cache.plan import Sample
    from cogvx.data.manifest import Manifest
    from cogvx.evaluation.render import Arm
    from cogvx.evaluation.suite import Suite
    from cogvx.inference.session import Session
    from tasks.evaluation.measure import Measurer

    Wanted = tuple[Arm, tuple[tuple[Sample, ...], ...], Sequence[Scene]]

PLANS = "plans"
_PICTURES = f"{PLANS}/images"


def measured_elsewhere(bench: Workbench) -> Elsewhere[MeasureReport] | None:
    """Where predictions are measured, if the settings do not leave it to this process."""
    here = bench.settings
    return elsewhere(here.measure_deployment, MeasureReport, bench.store, here)


def cut_losses(bench: Workbench, arms: "Iterable[Arm]", manifest: "Manifest") -> tuple[Child, ...]:
    """The runs that measure the held-out losses which the store lacks."""
    if not bench.settings.measure_deployment:
        return ()
    from tasks.evaluation.measure import heldout_of  # noqa: PLC0415 - loads the GPU stack

    windows = (heldout_of(bench, manifest),)
    wanted = [(arm, _unknown(bench, arm, windows), ()) for arm in arms]
    return publish_plans(bench, wanted, "losses")


def cut_drifts(
    bench: Workbench, arms: "Sequence[Arm]", suite: "Suite", manifest: "Manifest"
) -> tuple[Child, ...]:
    """The runs that measure what is asked when the videos are there, and the store lacks.

    Those are the drifts from the base, on the base's own videos, and the losses of which the
    overfit gap is made; and of the challenger at other weights what a sweep asks.
    """
    if not bench.settings.measure_deployment:
        return ()
    from tasks.evaluation.overfit import overfit_windows  # noqa: PLC0415 - loads the GPU stack
    from tasks.evaluation.sweep import sweep_of  # noqa: PLC0415

    train, heldout = overfit_windows(bench, manifest)
    gap = (train, heldout) if train and heldout else ()
    wanted = [(arm, _unknown(bench, arm, gap), _undrifted(bench, arm, suite)) for arm in arms]
    sweep = sweep_of(bench, arms[-1])
    if sweep is not None:
        wanted += (
            (arm, _unknown(bench, arm, (heldout,)), _undrifted(bench, arm, sweep.suite))
            for arm in sweep.arms
        )
    return publish_plans(bench, wanted, "drift")


def measurer_of(bench: Workbench, ended: "Sequence[Ended[MeasureReport]]") -> "Measurer":
    """Who measures for this process, after such runs have ended: nobody any more, or itself.

    An arm that a run refused is refused with its reason.

    Raises:
        CogvxError: Runs failed for reasons that have nothing to do with their arms.
    """
    from tasks.evaluation.measure import Measurer  # noqa: PLC0415 - loads the GPU stack

    if not bench.settings.measure_deployment:
        return Measurer.here(bench)
    refused = {
        str(end.child.parameters["arm"]): str(end.error)
        for end in ended
        if isinstance(end.error, IntegrityError)
    }
    reports = require_all([end for end in ended if not isinstance(end.error, IntegrityError)])
    lost = next((report.lost for report in reports if report.lost), "")

    def none_here() -> "Session":
        raise RecordsLost(
            lost or "what was measured elsewhere is not in the store; evaluate once more"
        )

    told = {
        place: [(timestep, float(loss)) for timestep, loss in losses]
        for report in reports
        for place, losses in report.told.items()
    }
    return Measurer(none_here, told, refused)


def _unknown(
    bench: Workbench, arm: "Arm", sets: "Iterable[tuple[Sample, ...]]"
) -> "tuple[tuple[Sample, ...], ...]":
    """Those sets of windows of which the store does not know the arm's losses."""
    from tasks.evaluation.heldout import losses_path  # noqa: PLC0415 - loads the GPU stack

    return tuple(
        windows for windows in sets if bench.store.info(losses_path(bench, arm, windows)) is None
    )


def _undrifted(bench: Workbench, arm: "Arm", suite: "Suite") -> tuple[Scene, ...]:
    """Scenes whose drift the store does not know; the base drew a video of each."""
    from cogvx.inference.video_key import path_of  # noqa: PLC0415 - loads torch
    from tasks.evaluation.drift import scenes_of, unmeasured  # noqa: PLC0415

    missing = unmeasured(bench, arm, scenes_of(bench, suite))
    return tuple(scene for scene in missing if bench.store.info(path_of(scene.key)) is not None)


def publish_plans(bench: Workbench, wanted: "Iterable[Wanted]", what: str) -> tuple[Child, ...]:
    """The runs for arms that lack something, and in the store what they need of this machine.

    Args:
        bench: The recipe's workbench.
        wanted: Arms, each with the sets of windows and the scenes that are to be measured.
        what: Names the runs.
    """
    enclosed = Enclosures(bench.store, _PICTURES)
    plans = [_plan(bench, each, enclosed) for each in wanted if each[1] or each[2]]
    children = tuple(_child(bench, plan, what) for plan in plans)
    enclosed.put()
    return children


def _plan(bench: Workbench, wanted: "Wanted", enclosed: Enclosures) -> MeasurePlan:
    arm, windows, scenes = wanted
    return MeasurePlan(
        base=bench.base_fingerprint,
        arm=arm.name,
        adapters=tuple(
            (enclosed.adapter(adapter.sha256, adapter.path), adapter.weight)
            for adapter in arm.adapters
        ),
        windows=windows,
        scenes=tuple(_portable(bench, scene, enclosed) for scene in scenes),
    )


def _portable(bench: Workbench, scene: Scene, enclosed: Enclosures) -> Scene:
    """The scene with the place of its picture in the store, if it has one."""
    if scene.prompt.image is None:
        return scene
    picture = read_picture(scene.prompt.image, bench.recipe.video.size)
    kept = enclosed.picture(picture)
    return scene.model_copy(update={"prompt": scene.prompt.model_copy(update={"image": kept})})


def _child(bench: Workbench, plan: MeasurePlan, what: str) -> Child:
    shard = bench.publish(PLANS, plan)
    return Child(
        name=f"measure {what} of {plan.arm}, {bench.recipe.name}",
        key=digest(["measure", shard, bench.recipe.model_dump(mode="json")]),
        parameters={"recipe": bench.recipe, "arm": plan.arm, "shard": shard},
    )
