"""A retraining that fails, crashes or is cancelled leaves a summary on its page all the same.

Prefect calls `tell_failure` when such an end is reached: within the run's process where that lives,
else within its worker, after the process is gone. So it takes no time from a run that is stopped,
and it knows only what is kept: the flow run and its children in Prefect, and the store.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx  # what Prefect's client raises
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.utilities.urls import url_for
from pydantic import ValidationError

from cogvx.errors import CogvxError, TransientError, error_from_name
from cogvx.recipe import Recipe
from cogvx.runs.carry import latest_key
from cogvx.runs.folder import TrainOutcome
from cogvx.runs.saved import Pointer
from cogvx.store import ObjectStore
from tasks.clients.registry import Registry
from tasks.clients.secrets import without_secrets
from tasks.clients.stores import open_record_store
from tasks.pages.shown import shown
from tasks.pools.fan_out import error_in
from tasks.registry.adapter_refs import adapter_key
from tasks.registry.models import pages_of
from tasks.retraining.cost_sums import uncounted_costs
from tasks.retraining.failure_page import Failure, Kept, failure_page
from tasks.retraining.publish import stage_times
from tasks.settings import Settings, settings
from tasks.workbench import read_stored

logger = logging.getLogger(__name__)

_RUN_TAG = "run:"  # which `tasks.pages.labels` sets as soon as the clips are known


def tell_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Publish the summary of a retraining that has ended badly; for Prefect's hooks.

    What cannot be found out now is left out, each part by itself; nothing is raised, as a run has
    ended already. Only of a server that is away, or that knows the run no more, is no page there.
    """
    with shown("summary"), get_client(sync_client=True) as client:
        try:
            run = client.read_flow_run(flow_run.id)  # with its tags as they are now
        except ObjectNotFound:
            logger.warning("%s was deleted, and has no page for its summary", flow_run.name)
            return
        recipe = _recipe_of(run)
        name = recipe.name if recipe else ""
        kept, links = (Kept(), {}) if recipe is None else _found(recipe, run)
        failure = Failure(
            name=name,
            state=_name_of(state),
            error=_clean(_error(state)),
            again=_again(client, flow, run),
            stages=stage_times(run.id),
            kept=kept,
            links=links,
        )
        client.create_artifact(
            ArtifactCreate(
                key="-".join(filter(None, ("summary", name))),
                type="markdown",
                description=f"Summary of {name or run.name}",
                data=failure_page(failure),
                flow_run_id=run.id,
            )
        )


@contextmanager
def _left_out(what: str) -> Iterator[None]:
    """Go on without what the block would find out in a store, a folder's own errors among them."""
    try:
        yield
    except (CogvxError, OSError) as error:
        logger.warning("the summary says nothing %s: %s", what, without_secrets(str(error)))


def _recipe_of(run: FlowRun) -> Recipe | None:
    """None where it cannot be read: then that is why the run has failed."""
    try:
        return Recipe.model_validate(run.parameters.get("recipe"))
    except ValidationError:
        return None


def _found(recipe: Recipe, run: FlowRun) -> tuple[Kept, dict[str, str]]:
    """What the store has of the run, and pages in MLflow; nothing before the clips were known."""
    kept, links = Kept(steps=recipe.train.steps), dict[str, str]()
    digits = next((tag for tag in run.tags if tag.startswith(_RUN_TAG)), "").removeprefix(_RUN_TAG)
    if not digits:
        return Kept(), links
    with _left_out("of what is kept"):
        here = settings()
        store = open_record_store(here)
        with _left_out("of what was spent"):
            costs = uncounted_costs(store, recipe.name, here)
            kept = replace(kept, costs=costs, unit=here.currency)
        ours = next((info.key.split("/")[1] for info in store.entries(f"runs/{digits}")), None)
        if ours is not None:
            kept = _with_run(kept, store, ours)
            links = _links(recipe, ours, here)
    return kept, links


def _links(recipe: Recipe, ours: str, here: Settings) -> dict[str, str]:
    """The training's page, where MLflow has pages."""
    with _left_out("of MLflow's pages"):
        if here.is_tracked:
            registry = Registry(here.mlflow_uri, here.mlflow_artifacts)
            server, known = pages_of(registry), registry.find_run(recipe.name, ours)
            if server and known is not None:
                return {"training, in MLflow": f"{server}/#/runs/{known}"}
    return {}


def _with_run(kept: Kept, store: ObjectStore, run: str) -> Kept:
    """With what lies in our run's folder."""
    url, outcome = store.url.rstrip("/"), f"runs/{run}/outcome.json"
    kept = replace(kept, run=run, place=f"{url}/runs/{run}/")
    with _left_out("of the adapter"):
        if store.info(outcome) is not None:
            sha256 = read_stored(store, outcome, TrainOutcome).adapter_sha256 or ""
            kept = replace(kept, adapter=f"{url}/{adapter_key(sha256)}")
    with _left_out("of the checkpoint"):
        if store.info(latest_key(run)) is not None:
            kept = replace(kept, step=read_stored(store, latest_key(run), Pointer).step)
    return kept


def _name_of(state: State) -> str:
    """What the end will be called; a run that is being cancelled has no other end."""
    return "Cancelled" if state.is_cancelling() else state.name or "Failed"


def _error(state: State) -> CogvxError:
    """Our own error, if the run ended with one; else what Prefect says of its end."""
    message = state.message or ""
    if state.is_failed():
        return error_in(message) or CogvxError(message or "it left no message")
    return TransientError(message or "it left no message")


def _clean(error: CogvxError) -> CogvxError:
    return error_from_name(type(error).__name__, without_secrets(str(error)))


def _again(client: SyncPrefectClient, flow: Flow[..., Any], run: FlowRun) -> str:
    by_hand = f"`cogvx {flow.name} RECIPE`"
    if run.deployment_id is None:
        return by_hand
    try:
        deployment = client.read_deployment(run.deployment_id)
    except ObjectNotFound:
        return f"{by_hand}, as its deployment is gone"
    except httpx.HTTPError as error:
        logger.warning("the summary does not name the deployment: %s", without_secrets(repr(error)))
        return by_hand
    page = without_secrets(url_for("deployment", obj_id=deployment.id) or "")
    pages = f", or *Run* on [its page]({page})" if page else ""
    return f"`cogvx trigger {flow.name}/{deployment.name}`{pages}"
