"""Look for new clips, and start what waits for them."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from cogvx.recipe import Recipe
from tasks.documents import WatchReport
from tasks.watch import watch_clips

Seconds = Annotated[float, Field(ge=0, le=86_400)]


@flow(name="watch", flow_run_name="watch {recipe.dataset.uri}")
def watch(
    recipe: Recipe, settle_seconds: Seconds = 20.0, patience_seconds: Seconds = 900.0
) -> WatchReport:
    """Announce new, changed and removed clips by an event, once the same files are seen twice.

    The event `cogvx.dataset.arrived` starts a retraining wherever a deployment waits for it. A look
    lists the dataset and reads none of it.
    """
    return watch_clips(recipe, settle_seconds=settle_seconds, patience_seconds=patience_seconds)
