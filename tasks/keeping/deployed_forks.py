"""Runs that a retraining still to come begins with: no document in the store names them yet.

A recipe with `train.fork_of` is written down there when its run begins. Until then only Prefect
knows it: as a parameter of a deployment, or of a flow run that waits or works.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, StateType

from tasks.clients.pool import asking

_PAGE = 200
_UNDER_WAY = FlowRunFilterState(
    type=FlowRunFilterStateType(any_=sorted({*StateType} - {*TERMINAL_STATES}))
)


def deployed_forks() -> frozenset[str]:
    """The runs that recipes name which are deployed, or given to flow runs that have not ended.

    Recipes are not checked: one that today's rules refuse may be mended by its owner.

    Raises:
        TransientError: Prefect's server did not answer, so nobody knows what is needed.
    """
    with asking("list what is deployed"), get_client(sync_client=True) as client:
        named = (_named_by(parameters) for parameters in _parameters(client))
        return frozenset(run for run in named if run)


def _parameters(client: SyncPrefectClient) -> Iterator[Mapping[str, Any]]:
    """Of deployments first: what one starts meanwhile is then among the runs.

    Each page is of those that none before it had. A page that began at a number would miss some:
    whatever ends or is removed meanwhile, those behind it move up.
    """
    seen: list[UUID] = []
    while True:
        rest = DeploymentFilter(id=DeploymentFilterId(not_any_=seen))
        deployments = client.read_deployments(deployment_filter=rest, limit=_PAGE)
        yield from (deployment.parameters for deployment in deployments)
        seen += [deployment.id for deployment in deployments]
        if len(deployments) < _PAGE:
            break
    seen = []
    while True:
        left = FlowRunFilter(id=FlowRunFilterId(not_any_=seen), state=_UNDER_WAY)
        runs = client.read_flow_runs(flow_run_filter=left, limit=_PAGE)
        yield from (run.parameters for run in runs)
        seen += [run.id for run in runs]
        if len(runs) < _PAGE:
            break


def _named_by(parameters: Mapping[str, Any]) -> str:
    """`recipe.train.fork_of`, if these are parameters with such a recipe."""
    found: object = parameters
    for name in ("recipe", "train", "fork_of"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else ""
