"""Slots of a machine's GPUs, shared by all work pools that run there: a Prefect concurrency limit.

Pools know only their own runs. A run that is killed keeps its slots until its lease ends, after
five minutes.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from cogvx.errors import ConfigError, TransientError
from tasks.clients.pool import address_of, asking
from tasks.clients.secrets import cause_without_secrets, without_secrets
from tasks.settings import Settings

logger = logging.getLogger(__name__)

# What is made beside the catalog goes again when that is applied.
_APPLY = "use `cogvx deploy --apply --catalog YOUR.toml`"


@contextmanager
def gpu_slots(here: Settings, count: int) -> Iterator[None]:
    """Hold so many GPU slots while the block lasts; wait for them first.

    They are given back however the block ends. A server that forgets meanwhile who holds them stops
    no work: a warning says so. Without `COGVX_GPU_SLOTS` there is nothing to hold.

    Raises:
        ConfigError: There is no such limit, or it can never give so many.
        TransientError: Prefect's server did not answer.
    """
    name = here.gpu_slots
    if not name:
        yield
        return
    require_slots(here, count)
    logger.info("wait for %d slot(s) of %s", count, name)
    held = concurrency(name, occupy=count, strict=True, raise_on_lease_renewal_failure=False)
    with ExitStack() as stack:
        try:
            stack.enter_context(held)
        except ConcurrencySlotAcquisitionError as error:
            raise TransientError(
                f"Prefect's server gave no slot of {name}: {without_secrets(str(error))}"
            ) from cause_without_secrets(error)
        logger.info("hold %d slot(s) of %s", count, name)
        yield


def require_slots(here: Settings, count: int) -> None:
    """Refuse slots that can never be had, before any work is done for them.

    Raises:
        ConfigError: There is no such limit, or it can never give so many.
        TransientError: Prefect's server did not answer.
    """
    name = here.gpu_slots
    if not name:
        return
    where = f'COGVX_GPU_SLOTS = "{name}"'
    with get_client(sync_client=True) as client, asking("look for GPU slots"):
        try:
            found = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound as error:
            raise ConfigError(
                f"{where} is no concurrency limit at {address_of(client)}; {_APPLY}, with "
                f"`{name} = {count}` in its [limits] or more, or name another"
            ) from cause_without_secrets(error)
    if found.limit < count:
        raise ConfigError(
            f"{where} has {found.limit} slot(s), and this run occupies {count}; {_APPLY}, with "
            f"`{name} = {count}` in its [limits], or use train.processes = {found.limit}"
        )
    if not found.active:
        raise ConfigError(
            f"{where} is not active, so it holds nobody back; {_APPLY}, which enables it"
        )
