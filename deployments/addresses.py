"""Addresses of Prefect's server and of proxies: one that is none is told before it is asked."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import httpx  # what Prefect's client raises
from prefect.client.orchestration import SyncPrefectClient

from cogvx.errors import ConfigError
from tasks.clients.pool import IN_PASSWORDS, NO_ADDRESS

_LARGEST_PORT = 65535


def require_address(url: str) -> None:
    """Refuse what is no address of a server; httpx's words hold the beginning of a password.

    Raises:
        ConfigError: It is none, or holds a password with a character that ends it.
    """
    try:
        parsed = httpx.URL(url)
        # What follows the port is all that is left of a password with a slash.
        is_whole = b"@" not in parsed.raw_path and "@" not in parsed.fragment
        is_right = is_whole and parsed.scheme in {"http", "https"} and bool(parsed.host)
        is_right = is_right and (parsed.port or 0) <= _LARGEST_PORT
    except httpx.InvalidURL:
        is_right = False
    if not is_right:
        raise ConfigError(NO_ADDRESS)


@contextmanager
def opening(
    client: Callable[[], AbstractContextManager[SyncPrefectClient]],
) -> Iterator[SyncPrefectClient]:
    """The client that this gives, for an address that is one.

    Raises:
        ConfigError: A proxy has no address.
    """
    with ExitStack() as stack:
        try:
            found = stack.enter_context(client())
        except (httpx.InvalidURL, ValueError):  # which show it
            raise ConfigError(
                "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is no address of a proxy; write it like "
                f"http://proxy:3128, {IN_PASSWORDS}"
            ) from None
        yield found
