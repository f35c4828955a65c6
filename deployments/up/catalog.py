"""The catalog as `cogvx up` uses it: its pools on this machine."""

from collections.abc import Sequence

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName

from deployments.catalog import Catalog
from deployments.up.services import PoolPlan
from tasks.clients.pool import asking


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
                f"runs belong: python -m tasks.clients.tend -- prefect worker start --pool {name}"
            )
    return plans, left_out


def startable(
    client: SyncPrefectClient, plans: Sequence[PoolPlan]
) -> tuple[list[PoolPlan], list[str]]:
    """The pools that are of processes at the server, too, and a sentence for each that is not.

    Raises:
        TransientError: The server did not answer.
    """
    names = WorkPoolFilter(name=WorkPoolFilterName(any_=[plan.name for plan in plans]))
    with asking("look for work pools"):
        found = client.read_work_pools(work_pool_filter=names)
    theirs = {pool.name: pool.type for pool in found}
    left_out = [
        f"pool {plan.name} is of type {theirs[plan.name]} at the server and gets no worker here"
        for plan in plans
        if theirs[plan.name] != "process"
    ]
    return [plan for plan in plans if theirs[plan.name] == "process"], left_out
