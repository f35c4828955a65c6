"""What people see in Prefect's pages: a server that is away costs them the page, never the work."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import httpx  # what Prefect's client raises

from tasks.clients.secrets import without_secrets

logger = logging.getLogger(__name__)


@contextmanager
def shown(what: str) -> Iterator[None]:
    """Show something in Prefect's pages, or say that it could not be shown and go on.

    A server that restarts is waited for: Prefect's client tries again for about a minute.
    """
    try:
        yield
    except httpx.HTTPError as error:
        why = without_secrets(repr(error))
        logger.warning("%s: not shown in Prefect's pages: %s", what, why)
