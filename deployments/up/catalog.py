"""The catalog as `cogvx up` uses it: which one, and its pools on this machine."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName

from cogvx.errors import ConfigError
from deployments.catalog import Catalog
from deployments.up.services import Options, PoolPlan
from deployments.up.state import Desk
from tasks.clients.pool import asking

logger = logging.getLogger(__name__)


def as_last_named(options: Options, desk: Desk, *, named: Collection[str]) -> Options:
    """The options with the catalog that the last `up` of this home named, unless this one does.

    Without either it stays the demo's, which nobody chose: it may not remove what others deployed.

    Args:
        options: What is wanted.
        desk: Of the home.
        named: The parameters of `up` that a person wrote.

    Raises:
        ConfigError: That catalog is not there any more.
    """
    if "catalog" in named:
        return options
    catalog = desk.catalog
    if catalog is None:
        return replace(options, is_chosen=False)
    if not catalog.is_file():
        raise ConfigError(
            f"the last `cogvx up` here had the catalog {catalog}, which is not there; name one: "
            "`cogvx up --catalog FILE`"
        )
    logger.info("catalog   %s, as the last `cogvx up` here; for another: --catalog FILE", catalog)
    return replace(options, catalog=catalog)


def pool_plans(catalog: Catalog) -> tuple[list[PoolPlan], list[str]]:
    """The pools that get workers here, and a sentence for each that does not.

    What encodes and generates has a GPU to itself, and what trains as many as it has processes,
    whether or not the catalog, which for pools of processes leaves it to workers, says how many.
    """
    used: dict[str, int] = {}
    for one in catalog.recipes:
        places = one.row.places
        for busy, count in (
            (places.cache, 1),
            (places.train, one.recipe.train.processes),
            (places.evaluate, 1),
        ):
            used[busy] = max(count, used.get(busy, 0))
    plans, left_out = [], []
    for name, pool in catalog.pools.items():
        if pool.type == "process":
            gpus = max(pool.gpus, used.get(name, 0))
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
