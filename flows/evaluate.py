"""Judge the challenger against the champion, or against the bare base if there is none."""

import logging

from prefect import flow

from cogvx.recipe import Recipe
from flows.cache import cache
from flows.generate import generate_shard
from tasks.dispatch import in_one_piece, run_child, run_children
from tasks.documents import EvaluateReport
from tasks.evaluate import judge_evaluation
from tasks.evaluate_plan import EvaluationWork, plan_evaluation
from tasks.generate import videos_elsewhere
from tasks.records import RecordsLost, VideosLost
from tasks.workbench import open_workbench

logger = logging.getLogger(__name__)


@flow(name="evaluate", flow_run_name="evaluate {recipe.name}")
def evaluate(recipe: Recipe) -> EvaluateReport:
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
    step: EvaluationWork | EvaluateReport = plan_evaluation(bench)
    while isinstance(step, EvaluationWork):  # once, and after a HOLD with more seeds once more
        ended = run_children(
            generate_shard, step.children, what="render videos", elsewhere=videos_elsewhere()
        )
        step = judge_evaluation(bench, in_one_piece(step), in_one_piece(ended))
    return step
