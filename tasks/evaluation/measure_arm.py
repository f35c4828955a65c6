"""Measure one arm on a GPU, for an evaluation that has none: losses on clips, drift from the base.

The numbers go where an evaluation looks for them; run twice, the second run computes nothing.
"""

import logging
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE

from cogvx.errors import DataError, IntegrityError
from tasks.caching.records import RecordsLost
from tasks.clients.slots import gpu_slots
from tasks.evaluation.measure_documents import MeasurePlan, MeasureReport, Scene
from tasks.evaluation.measure_shards import PLANS
from tasks.generation.generate_inputs import published_picture
from tasks.pools.metering import metered
from tasks.pools.retries import RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.registry.adapter_refs import bring_adapter
from tasks.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Callable

    from cogvx.evaluation.render import Arm
    from cogvx.inference.session import Session

logger = logging.getLogger(__name__)

_SHOWN = 12


@task(
    name="measure arm",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def measure_arm(bench: Workbench, shard: str) -> MeasureReport:
    """Measure what a published plan asks of its arm.

    Records that are lost keep nothing else from being measured; the report tells of them.

    Raises:
        ConfigError: There are no such GPU slots as the settings name.
        IntegrityError: The plan is damaged, the base of this machine is another one, or the arm's
            adapters do not fit it.
    """
    from cogvx.evaluation.render import Arm  # noqa: PLC0415 - loads the GPU stack
    from cogvx.inference.batch import AdapterAtWeight  # noqa: PLC0415
    from tasks.evaluation.measure import one_session  # noqa: PLC0415

    plan = bench.published(PLANS, shard, MeasurePlan)
    if plan.base != bench.base_fingerprint:
        raise IntegrityError(
            f"{bench.recipe.base.path} on this machine is {bench.base_fingerprint[:_SHOWN]}, and "
            f"{plan.base[:_SHOWN]} is meant; put the same base on every machine"
        )
    adapters = (
        AdapterAtWeight(sha256, bring_adapter(sha256, bench.store, bench.settings), weight)
        for sha256, weight in plan.adapters
    )
    arm, open_session = Arm(plan.arm, tuple(adapters)), one_session(bench)
    with (
        gpu_slots(bench.settings, 1),
        metered(bench.store, "measure", model=bench.recipe.name) as meter,
    ):
        report = _measure_losses(bench, arm, plan, open_session)
        _measure_drifts(bench, arm, plan.scenes, open_session)
        meter.made = report.wanted
    return report


def _measure_losses(
    bench: Workbench, arm: "Arm", plan: MeasurePlan, open_session: "Callable[[], Session]"
) -> MeasureReport:
    from tasks.evaluation.heldout import losses_of, losses_path  # noqa: PLC0415 - loads the GPU stack

    told: dict[str, tuple[tuple[int, str], ...]] = {}
    lost = ""
    for windows in plan.windows:
        try:
            losses = losses_of(bench, arm, windows, open_session)
        except RecordsLost as error:
            logger.warning("losses of %s are not measured: %s", arm.name, error)
            lost = str(error)
            continue
        place = losses_path(bench, arm, windows)
        if bench.store.info(place) is None:
            told[place] = tuple((loss.timestep, str(loss.loss)) for loss in losses)
    return MeasureReport(wanted=len(plan.windows) + len(plan.scenes), told=told, lost=lost)


def _measure_drifts(
    bench: Workbench,
    arm: "Arm",
    scenes: tuple[Scene, ...],
    open_session: "Callable[[], Session]",
) -> None:
    from cogvx.inference.video_key import path_of  # noqa: PLC0415 - loads the GPU stack
    from cogvx.mp4 import read_mp4  # noqa: PLC0415
    from tasks.evaluation.drift import measure_drift, unmeasured  # noqa: PLC0415

    shown = []
    for scene in unmeasured(bench, arm, scenes):
        video = bench.store.fetch(path_of(scene.key), bench.work / "videos")
        try:
            read_mp4(video)
        except DataError as error:  # whoever scores it has it rendered again
            logger.warning("drift on %s is not measured: %s", scene.prompt.id, error)
            continue
        shown.append((scene, video))
    if shown:
        measure_drift(
            bench,
            arm,
            shown,
            open_session=open_session,
            read_image=published_picture(bench.store),
        )
