"""`cogvx trigger`: start a deployment, and see what becomes of it."""

import logging
import time
from uuid import UUID

import httpx
import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from cogvx.errors import CogvxError, ConfigError, TransientError
from deployments.addresses import opening, require_address
from deployments.up.runs import Told, family, is_bad, talking_to, words_for
from deployments.up.state import Desk
from tasks.clients.pool import address_of, asking
from tasks.clients.secrets import cause_without_secrets, without_secrets
from tasks.settings import Settings

logger = logging.getLogger(__name__)

_POLL_SECONDS = 2.0
_INTERRUPTED = 130  # as shells have it
_SILENCE_SECONDS = 300.0  # a server that is started again takes less


def run_trigger(name: str, here: Settings, *, wait: bool) -> None:
    """Start a run of a deployment, and tell where it is; with `wait`, follow it to its end.

    Args:
        name: As Prefect writes it, `retrain/nano-demo`; a name alone is a retrain's.
        here: Settings of this machine: the server is that of PREFECT_API_URL, or of `cogvx up`.
        wait: Interrupted, it leaves the run alone.

    Raises:
        ConfigError: There is no server, its address is none, or there is no such deployment.
        CogvxError: The run that was followed did not end well.
        TransientError: The server does not answer.
    """
    full = name if "/" in name else f"retrain/{name}"
    pages = server(here)
    with opening(lambda: talking_to(pages)) as client:
        run = _start(client, full)
        typer.echo(f"{full} is to run: {without_secrets(pages)}/runs/flow-run/{run.id}")
        if wait:
            try:
                _follow(client, run.id)
            except KeyboardInterrupt:
                typer.echo(f"{full} goes on; its page, or `cogvx status`, shows how far it is")
                raise typer.Exit(_INTERRUPTED) from None


def server(here: Settings) -> str:
    """The pages of the Prefect server that commands talk to.

    Raises:
        ConfigError: Neither PREFECT_API_URL nor a `cogvx up` of this home names one, or it is named
            by no address.
    """
    api = PREFECT_API_URL.value()
    if api:
        require_address(str(api))
        return str(api).removesuffix("/").removesuffix("/api")
    desk = Desk(here.home)
    state = desk.read()
    if state is None or not state.is_kept:
        raise ConfigError(
            f"no Prefect server: nothing is up for {here.home.resolve()}, and PREFECT_API_URL is "
            f"not set; start one with `{desk.command} --detach`, or name one"
        )
    return state.prefect


def _start(client: SyncPrefectClient, name: str) -> FlowRun:
    with asking("start a run"):
        try:
            found = client.read_deployment_by_name(name)
        except (ObjectNotFound, ValueError) as error:
            known = sorted(_names(client))
            raise ConfigError(
                f'no deployment "{name}" at {address_of(client)}; there are: '
                f"{', '.join(known) or 'none, see `cogvx deploy`'}"
            ) from cause_without_secrets(error)
        try:
            return client.create_flow_run_from_deployment(found.id)
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in {409, 422}:
                raise
            why = without_secrets(error.response.text)[:500]
            raise ConfigError(
                f"{name} does not start without more parameters: {why}"
            ) from cause_without_secrets(error)


def _names(client: SyncPrefectClient) -> list[str]:
    flows = {flow.id: flow.name for flow in client.read_flows()}
    return [f"{flows.get(one.flow_id, '?')}/{one.name}" for one in client.read_deployments()]


def _follow(client: SyncPrefectClient, root: UUID) -> None:
    """Tell states until the run has ended."""
    told, heard = Told(), time.monotonic()
    while True:
        try:
            runs = family(client, root)
            if not runs:
                raise CogvxError(f"flow run {root} was deleted, so nobody knows how it ended")
            news = told.news(client, runs)
            heard = time.monotonic()
        except TransientError:
            # a server may be started again meanwhile, and the run goes on without it
            if time.monotonic() - heard > _SILENCE_SECONDS:
                raise
            runs, news = [], []
        for run, words in news:
            logger.log(logging.WARNING if is_bad(run) else logging.INFO, words)
        head = next((run for run in runs if run.id == root), None)
        if head is not None and head.state is not None and head.state.is_final():
            if is_bad(head):
                raise CogvxError(words_for(head, head.name))
            return
        time.sleep(_POLL_SECONDS)
