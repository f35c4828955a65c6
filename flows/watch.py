"""Look for new clips, and start what waits for them."""

from typing import Annotated, Any

from prefect import State, flow
from pydantic import Field

from cogvx.errors import CogvxError
from cogvx.form import in_form
from flows.parameters import AnyRecipe
from tasks.caching.outage import fail_once
from tasks.caching.watch import watch_clips
from tasks.documents import WatchReport

Seconds = Annotated[float, Field(ge=0, le=86_400)]
Settle = Annotated[Seconds, in_form("Rest, seconds", "Two looks so far apart must agree")]
Patience = Annotated[Seconds, in_form("Patience, seconds", "Uploads that go on are announced then")]


@flow(name="watch", flow_run_name="watch {recipe.dataset.uri}")
def watch(
    recipe: AnyRecipe, settle_seconds: Settle = 20.0, patience_seconds: Patience = 900.0
) -> WatchReport | State[Any]:
    """Announce new, changed and removed clips by an event, once the same files are seen twice.

    The event `cogvx.dataset.arrived` starts a retraining wherever a deployment waits for it. A look
    lists the recipe's dataset and reads none of it. One that fails as the look before it did is
    called StillFailing, of which people are not told again.
    """
    try:
        return watch_clips(recipe, settle_seconds=settle_seconds, patience_seconds=patience_seconds)
    except (CogvxError, OSError) as error:  # a disk that is full or closed is an outage as well
        return fail_once(error)
