"""Runs that a retraining still to come begins with: no document in the store names them yet.

A recipe with `train.fork_of` is written down there when its run begins. Until then only Prefect
knows it: as a parameter of a deployment, or of a flow run that waits or works.
"""

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, StateType
from prefect.client.schemas.sorting import DeploymentSort, FlowRunSort

from tasks.clients.pool import asking

_PAGE = 200
_UNDER_WAY = FlowRunFilter(
    state=FlowRunFilterState(
        type=FlowRunFilterStateType(any_=sorted({*StateType} - {*TERMINAL_STATES}))
    )
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
    """Of deployments first: what one starts meanwhile is then among the runs."""
    for page in count():
        deployments = client.read_deployments(
            limit=_PAGE, offset=page * _PAGE, sort=DeploymentSort.NAME_ASC
        )
        yield from (deployment.parameters for deployment in deployments)
        if len(deployments) < _PAGE:
            break
    for page in count():
        runs = client.read_flow_runs(
            flow_run_filter=_UNDER_WAY,
            limit=_PAGE,
            offset=page * _PAGE,
            sort=FlowRunSort.ID_DESC,
        )
        yield from (run.parameters for run in runs)
        if len(runs) < _PAGE:
            break


def _named_by(parameters: Mapping[str, Any]) -> str:
    """`recipe.train.fork_of`, if these are parameters with such a recipe."""
    found: object = parameters
    for name in ("recipe", "train", "fork_of"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else ""
