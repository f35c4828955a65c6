"""Train the adapter of a recipe on what the cache holds."""

from prefect import flow

from flows.cache import cache
from flows.parameters import AnyRecipe
from tasks.caching.records import RecordsLost
from tasks.documents import TrainReport
from tasks.pages.labels import run_name
from tasks.pools.afar import leave
from tasks.pools.dispatch import run_child
from tasks.training.preflight import preflight
from tasks.training.train import train_adapter
from tasks.workbench import open_workbench


@flow(name="train", flow_run_name=run_name)
def train(recipe: AnyRecipe) -> TrainReport:
    """Train, export and verify one adapter; an interrupted run goes on where it stopped.

    The trainer is launched by a direct call: a submitted task would never hear a cancellation.
    Records that turn out to be damaged are never trained on: they are encoded again first.
    """
    preflight(recipe)
    bench = open_workbench(recipe)
    try:
        return leave(bench.store, train_adapter(bench))
    except RecordsLost:
        run_child(cache, recipe)
        bench = open_workbench(recipe)
        return leave(bench.store, train_adapter(bench))
