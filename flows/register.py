"""Register the trained adapter in MLflow as the challenger."""

from prefect import flow

from flows.parameters import AnyRecipe
from tasks.documents import RegisterReport
from tasks.pages.labels import run_name
from tasks.training.register import register_adapter
from tasks.workbench import open_workbench


@flow(name="register", flow_run_name=run_name)
def register(recipe: AnyRecipe) -> RegisterReport:
    """Register the recipe's newest adapter; the same run is never registered twice."""
    return register_adapter(open_workbench(recipe))
