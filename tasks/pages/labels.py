"""What a flow run is called in Prefect, and the tags that it is found by.

A run is called by stage, recipe and dataset from its start, and by its digest as well as soon as
that is known: the eight characters that MLflow's run has in its name, too.
"""

from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from cogvx.recipe import Recipe
from tasks.pages.shown import shown

if TYPE_CHECKING:
    from tasks.workbench import Workbench

_DIGITS = 8
_MOST = 60  # characters of a dataset's name that a list has room for


def run_name() -> str:
    """`train ink-style on clips`, and which shard; for `flow_run_name` of a flow with a recipe."""
    parameters = runtime.flow_run.parameters
    name = _name(runtime.flow_run.flow_name, parameters["recipe"])
    return f"{name}, shard {parameters['part']}" if "part" in parameters else name


def dataset_name(uri: str) -> str:
    """What people call a dataset: the last part of its place, or the bucket."""
    parts = urlsplit(uri)
    name = PurePosixPath(unquote(parts.path)).name or parts.netloc
    return name[:_MOST]


def label_run(bench: "Workbench", run: str) -> None:
    """Say in Prefect which run of ours the flow run under way is of; nothing where none is.

    Args:
        bench: Names recipe and dataset.
        run: Our run, see `Workbench.run_identity`.
    """
    recipe, digits = bench.recipe, run[:_DIGITS]
    name = f"{_name(runtime.flow_run.flow_name, recipe)} {digits}"
    dataset = f"dataset:{dataset_name(recipe.dataset.uri)}"
    _update(name, f"recipe:{recipe.name}", dataset, f"run:{digits}")


def tag_run(*tags: str) -> None:
    """Add tags to the flow run under way; one takes the place of another of its kind.

    A tag is a kind and a value, as verdict:HOLD; nothing happens where no flow is run.
    """
    _update(None, *tags)


def champion_tag(version: int | None) -> str:
    """The tag that says which version is the champion."""
    return "champion:none" if version is None else f"champion:v{version}"


def _name(stage: str, recipe: Recipe) -> str:
    return f"{stage} {recipe.name} on {dataset_name(recipe.dataset.uri)}"


def _update(name: str | None, *tags: str) -> None:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    kinds = tuple(f"{tag.partition(':')[0]}:" for tag in tags)
    with shown("name and tags"), get_client(sync_client=True) as client:
        run = client.read_flow_run(context.flow_run.id)
        kept = [tag for tag in run.tags if not tag.startswith(kinds)]
        if name == run.name and {*kept, *tags} == set(run.tags):
            return
        client.update_flow_run(run.id, name=name, tags=[*kept, *tags])
