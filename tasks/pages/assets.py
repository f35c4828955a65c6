"""What a run made, as assets among Prefect's events: manifest, adapter and report of a recipe.

Prefect's own server keeps the events and has no page for them; what holds is in the store and in
MLflow. A key stays the same from run to run, and the event says which one was made.
"""

from collections.abc import Mapping
from typing import Literal

from prefect.assets import Asset, AssetProperties
from prefect.context import AssetContext
from prefect.states import Completed

from tasks.pages.progress import is_watched

Kind = Literal["manifest", "adapter", "report"]
_MADE_OF: Mapping[Kind, Kind | None] = {
    "manifest": None,
    "adapter": "manifest",
    "report": "adapter",
}


def tell_asset(recipe: str, kind: Kind, facts: Mapping[str, object], *, url: str = "") -> None:
    """Tell Prefect that the run under way made this; nothing where no flow is run.

    Args:
        recipe: Its name.
        kind: What was made; of what is told with it.
        facts: Digests and numbers that say which one.
        url: A page that shows it, where there is one.
    """
    if not is_watched():
        return
    words = f"{kind} of {recipe}"
    properties = AssetProperties(name=words, url=url) if url else AssetProperties(name=words)
    made_of = _MADE_OF.get(kind)
    key = _key(recipe, kind)
    AssetContext(
        downstream_assets={Asset(key=key, properties=properties)},
        upstream_assets=set() if made_of is None else {Asset(key=_key(recipe, made_of))},
        materialized_by="cogvx",
        materialization_metadata={key: dict(facts)},
    ).emit_events(Completed())


def _key(recipe: str, kind: Kind) -> str:
    return f"cogvx://{recipe}/{kind}"
