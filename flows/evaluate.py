"""Judge the challenger against the champion, or against the bare base if there is none."""

import logging
from collections.abc import Sequence

from prefect import flow

from cogvx.recipe import Recipe
from flows.cache import cache
from flows.generate import generate_shard
from flows.measure import measure_shard
from flows.parameters import AnyRecipe
from tasks.caching.records import RecordsLost, VideosLost
from tasks.documents import EvaluateReport
from tasks.evaluation.evaluate import judge_evaluation, plan_drift
from tasks.evaluation.evaluate_plan import EvaluationWork, enter_evaluation, plan_evaluation
from tasks.evaluation.measure_documents import MeasureReport
from tasks.evaluation.measure_shards import measured_elsewhere
from tasks.generation.generate import videos_elsewhere
from tasks.pages.labels import label_run, run_name
from tasks.pools.children import Child, Ended
from tasks.pools.dispatch import in_one_piece, run_child, run_children
from tasks.workbench import Workbench, open_workbench

logger = logging.getLogger(__name__)


@flow(name="evaluate", flow_run_name=run_name)
def evaluate(recipe: AnyRecipe) -> EvaluateReport:
    """Screen, render what is missing, measure, decide, and write the report.

    Run twice, the second run renders nothing; killed anywhere, the next run finishes it. Records of
    held-out clips that turn out to be damaged are encoded again first, and damaged videos rendered.
    """
    try:
        return _evaluate(recipe)
    except RecordsLost:
        run_child(cache, recipe)
    except VideosLost as error:
        logger.warning("%s", error)
    return _evaluate(recipe)


def _evaluate(recipe: Recipe) -> EvaluateReport:
    bench = open_workbench(recipe, purpose="judge")
    label_run(bench, bench.run_identity(bench.latest_manifest()))
    entered = enter_evaluation(bench)
    losses = _measure(bench, entered.unmeasured, "measure losses")
    step: EvaluationWork | EvaluateReport
    step = plan_evaluation(bench, in_one_piece(entered), in_one_piece(losses))
    while isinstance(step, EvaluationWork):  # once, and after a HOLD with more seeds once more
        videos = run_children(
            generate_shard, step.children, what="render videos", elsewhere=videos_elsewhere()
        )
        shown = in_one_piece(step), in_one_piece(videos)
        drifts = _measure(bench, plan_drift(bench, *shown), "measure drift")
        step = judge_evaluation(bench, *shown, in_one_piece(drifts))
    return step


def _measure(
    bench: Workbench, children: Sequence[Child], what: str
) -> tuple[Ended[MeasureReport], ...]:
    return run_children(measure_shard, children, what=what, elsewhere=measured_elsewhere(bench))
