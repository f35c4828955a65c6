"""The catalog as `cogvx up` uses it: its pools on this machine, and its rows on the server."""

from prefect.client.orchestration import SyncPrefectClient

from deployments.apply import apply_catalog
from deployments.catalog import Catalog
from deployments.render import lines
from deployments.rows import desired
from deployments.up_services import PoolPlan


def pool_plans(catalog: Catalog) -> tuple[list[PoolPlan], list[str]]:
    """The pools that get workers here, and a sentence for each that does not.

    What encodes, trains and generates has a GPU to itself, whether or not the catalog, which for
    pools of processes leaves it to workers, says how many.
    """
    places = [one.row.places for one in catalog.recipes]
    busy = {pool for each in places for pool in (each.cache, each.train, each.evaluate)}
    plans, left_out = [], []
    for name, pool in catalog.pools.items():
        if pool.type == "process":
            gpus = max(pool.gpus, int(name in busy))
            plans.append(PoolPlan(name, gpus=gpus, stop_seconds=pool.stop_seconds))
        else:
            left_out.append(
                f"pool {name} is of type {pool.type} and gets no worker here; start one where its "
                f"runs belong: prefect worker start --pool {name}"
            )
    return plans, left_out


def put_on(client: SyncPrefectClient, catalog: Catalog) -> list[str]:
    """Bring the server to what the catalog says; returns what that took, as lines to show.

    Raises:
        ConfigError: The server cannot become this; nothing was changed.
        TransientError: The server did not answer.
    """
    return list(lines(apply_catalog(client, desired(catalog))))
