"""Judge the challenger against the champion, or against the bare base if there is none."""

from prefect import flow

from cogvx.recipe import Recipe
from tasks.documents import EvaluateReport
from tasks.evaluate import evaluate_adapter
from tasks.workbench import open_workbench


@flow(name="evaluate", flow_run_name="evaluate {recipe.name}")
def evaluate(recipe: Recipe) -> EvaluateReport:
    """Render the suite, measure, decide, and write the report; videos that exist are reused."""
    return evaluate_adapter(open_workbench(recipe))
