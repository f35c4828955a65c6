"""A Prefect server as `cogvx deploy` sees it: what is there of what a catalog can make."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar
from uuid import UUID

import httpx  # what Prefect's client raises
import prefect
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import WorkQueue
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import get_current_settings

from cogvx.errors import ConfigError, TransientError
from deployments.addresses import opening, require_address
from deployments.catalog_rules import LIMIT_MARK
from deployments.documents import (
    MADE_HERE,
    Document,
    automation_at_server,
    deployment_at_server,
    pool_at_server,
)
from deployments.reactions import MARK, PAUSED
from deployments.rows import PAUSED_TAG, TAG, Desired
from tasks.clients.secrets import cause_without_secrets, without_secrets

_PAGE = 200
_MOST = 500  # characters of a reason
_T = TypeVar("_T")


@dataclass(frozen=True)
class Seen:
    """One thing at the server: its document, and whose it is.

    `is_ours` says that it carries the mark, so that it goes when its row does; `is_paused` that a
    person paused it, `is_off` that a person paused a schedule of it. `twins` are others of its
    name, made by two who applied at once: the server takes several automations of one name.
    """

    id: UUID
    document: Document
    is_ours: bool
    is_paused: bool = False
    is_off: bool = False
    twins: tuple[UUID, ...] = ()


@dataclass(frozen=True)
class Found:
    """What is at a server, by name; `blocks` are the ids of those that rows name."""

    pools: Mapping[str, Seen]
    limits: Mapping[str, Seen]
    deployments: Mapping[str, Seen]
    automations: Mapping[str, Seen]
    blocks: Mapping[str, UUID]


NOTHING = Found({}, {}, {}, {}, {})
"""A server that was just made."""


@contextmanager
def open_server() -> Iterator[SyncPrefectClient]:
    """A client of the server that PREFECT_API_URL names, while the block lasts.

    Raises:
        ConfigError: None is named or not by an address, it refuses us, or it is of another major
            version.
        TransientError: It does not answer.
    """
    url = get_current_settings().api.url
    if not url:
        raise ConfigError(
            "PREFECT_API_URL names no server; start one with `cogvx up`, or name yours, for "
            "example PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    require_address(url)
    url = without_secrets(url)
    with opening(lambda: get_client(sync_client=True)) as client:
        theirs = _version(client, url)
        if theirs.split(".")[0] != prefect.__version__.split(".")[0]:
            raise ConfigError(
                f"the server at {url} is Prefect {theirs} and this is {prefect.__version__}; "
                "deploy with the version that the server has"
            )
        yield client


def _version(client: SyncPrefectClient, url: str) -> str:
    try:
        found = client.api_version()
    except httpx.HTTPStatusError as error:
        if error.response.status_code in {401, 403}:
            raise ConfigError(
                f"the server at {url} refuses us; PREFECT_API_AUTH_STRING or PREFECT_API_KEY is "
                "missing or wrong"
            ) from cause_without_secrets(error)
        raise _no_server(url, _reason(error)) from cause_without_secrets(error)
    except (httpx.HTTPError, ValueError) as error:  # ValueError: what came is no JSON
        why = str(error) or type(error).__name__
        raise _no_server(url, why) from cause_without_secrets(error)
    if not isinstance(found, str):
        raise _no_server(url, "what answers there tells no version")
    return found


def _no_server(url: str, why: str) -> TransientError:
    return TransientError(f"no Prefect server answers at {url}: {without_secrets(why)}")


@contextmanager
def asking_for(what: str) -> Iterator[None]:
    """Turn what a server refuses, and one that does not answer, into a sentence."""
    try:
        yield
    except (ObjectAlreadyExists, ObjectNotFound) as error:
        raise _overtaken(what) from cause_without_secrets(error)
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.CONFLICT:
            raise _overtaken(what) from cause_without_secrets(error)
        cause = cause_without_secrets(error)
        if error.response.status_code < 500:
            raise ConfigError(f"the server refuses {what}: {_reason(error)}") from cause
        raise TransientError(f"the server could not give {what}: {_reason(error)}") from cause
    except httpx.HTTPError as error:
        reason = without_secrets(str(error)) or type(error).__name__
        raise TransientError(
            f"the server did not answer, asked for {what}: {reason}"
        ) from cause_without_secrets(error)


def _overtaken(what: str) -> TransientError:
    return TransientError(
        f"{what} was made or removed meanwhile: somebody else applies, too; do it again"
    )


def _reason(error: httpx.HTTPStatusError) -> str:
    """What a server says of a refusal; it repeats the whole request after that."""
    try:
        said = error.response.json()
    except ValueError:
        said = {}
    details = said.get("exception_detail") if isinstance(said, dict) else None
    if isinstance(details, list):
        return without_secrets("; ".join(str(each.get("msg", each)) for each in details))
    detail = said.get("detail") if isinstance(said, dict) else None
    return without_secrets(str(detail or error.response.text))[:_MOST]


def read_server(client: SyncPrefectClient, wanted: Desired) -> Found:
    """What is there, of rows and of what carries the mark.

    Raises:
        TransientError: The server did not answer.
    """
    with asking_for("what is deployed"):
        blocks = _blocks(client, wanted)
        deployments = _deployments(client)
        names = {str(seen.id): name for name, seen in deployments.items()}
        names |= {str(number): block for block, number in blocks.items()}
        return Found(
            pools=_pools(client, wanted),
            limits=_limits(client),
            deployments=deployments,
            automations=_automations(client, names),
            blocks=blocks,
        )


def _pools(client: SyncPrefectClient, wanted: Desired) -> dict[str, Seen]:
    rows = {row.name: row for row in wanted.pools}
    found: dict[str, Seen] = {}
    queues: dict[UUID | None, list[WorkQueue]] = {}
    for queue in _every(client.read_work_queues):
        queues.setdefault(queue.work_pool_id, []).append(queue)
    for pool in _every(client.read_work_pools):
        ours = (pool.description or "") == MADE_HERE
        if (row := rows.get(pool.name)) is None:
            document: Document = {}
        else:
            document = pool_at_server(pool, queues.get(pool.id, []), row)
        found[pool.name] = Seen(pool.id, document, is_ours=ours, is_paused=pool.is_paused)
    return found


def _limits(client: SyncPrefectClient) -> dict[str, Seen]:
    return {
        limit.name: Seen(
            limit.id,
            {"slots": limit.limit, "active": limit.active},
            is_ours=limit.name.startswith(LIMIT_MARK),
        )
        for limit in _every(client.read_global_concurrency_limits)
    }


def _deployments(client: SyncPrefectClient) -> dict[str, Seen]:
    deployments = _every(client.read_deployments)
    # Asked for afterwards: somebody else may be making both. A flow that is gone took them along.
    flows = {flow.id: flow.name for flow in _every(client.read_flows)}
    found: dict[str, Seen] = {}
    for deployment in deployments:
        if deployment.flow_id not in flows:
            continue
        found[f"{flows[deployment.flow_id]}/{deployment.name}"] = Seen(
            deployment.id,
            deployment_at_server(deployment),
            is_ours=TAG in deployment.tags,
            # What the catalog paused says so by a tag.
            is_paused=deployment.paused and PAUSED_TAG not in deployment.tags,
            is_off=any(not schedule.active for schedule in deployment.schedules),
        )
    return found


def _automations(client: SyncPrefectClient, names: Mapping[str, str]) -> dict[str, Seen]:
    found: dict[str, Seen] = {}
    ours = [each for each in _every(client.read_automations) if each.name.startswith(MARK)]
    # In one order, so that two who apply at once keep the same one of several.
    for automation in sorted(ours, key=lambda each: each.id):
        if (first := found.get(automation.name)) is not None:
            found[automation.name] = replace(first, twins=(*first.twins, automation.id))
            continue
        paused = not automation.enabled and not automation.description.endswith(PAUSED)
        document = automation_at_server(automation, names)
        found[automation.name] = Seen(automation.id, document, is_ours=True, is_paused=paused)
    return found


def _blocks(client: SyncPrefectClient, wanted: Desired) -> dict[str, UUID]:
    """The blocks that rows name, by name; those that are not there are missing."""
    found: dict[str, UUID] = {}
    for row in wanted.automations:
        block = row.action.get("block")
        if block is not None:
            kind, _, name = block.partition("/")
            with contextlib.suppress(ObjectNotFound):
                found[block] = client.read_block_document_by_name(
                    name, kind, include_secrets=False
                ).id
    return found


def _every(read: Callable[..., list[_T]]) -> list[_T]:
    """All of what Prefect lists in pages."""
    found: list[_T] = []
    while len(page := read(limit=_PAGE, offset=len(found))) == _PAGE:
        found += page
    return found + page
