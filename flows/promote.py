"""Move the alias `champion` to a challenger that was judged better."""

from prefect import flow

from cogvx.recipe import Recipe
from tasks.documents import PromoteReport
from tasks.promote import promote_adapter
from tasks.workbench import open_workbench


@flow(name="promote", flow_run_name="promote {recipe.name}")
def promote(recipe: Recipe, approval: str | None = None) -> PromoteReport:
    """Promote if the verdict is PROMOTE and the recipe allows it; otherwise say why not.

    `approval` is a person's reason to promote where the recipe asks for a person.
    """
    return promote_adapter(open_workbench(recipe, purpose="judge"), approval)
