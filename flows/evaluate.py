"""Judge the challenger against the champion, or against the bare base if there is none."""

from prefect import flow

from cogvx.recipe import Recipe
from flows.cache import cache
from tasks.dispatch import run_child
from tasks.documents import EvaluateReport
from tasks.evaluate import evaluate_adapter
from tasks.records import RecordsLost
from tasks.workbench import open_workbench


@flow(name="evaluate", flow_run_name="evaluate {recipe.name}")
def evaluate(recipe: Recipe) -> EvaluateReport:
    """Render the suite, measure, decide, and write the report; videos that exist are reused.

    Records of held-out clips that turn out to be damaged are encoded again first.
    """
    try:
        return evaluate_adapter(open_workbench(recipe, purpose="judge"))
    except RecordsLost:
        run_child(cache, recipe)
        return evaluate_adapter(open_workbench(recipe, purpose="judge"))
