"""What looks again and again tells people of an outage when it begins, and not at each look.

Which runs went before, and how they ended, Prefect's server knows; the store may be what is away.
"""

import logging
import re
from typing import Any

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Failed

from cogvx.errors import CogvxError, TransientError
from tasks.clients.pool import asking

logger = logging.getLogger(__name__)

STILL_FAILING = "StillFailing"
"""Name of the state of a run that failed for a reason that was told; failed all the same."""

# A reason that comes back in turn with so many others is told again.
_BACK = 50
_ENDED = FlowRunFilterState(
    type=FlowRunFilterStateType(any_=[StateType.COMPLETED, StateType.FAILED])
)
# What stands before the reason in the message of a run: Prefect's words, and ours below.
_AROUND = re.compile(r"^(?:Flow run encountered an exception|as before): ")
_PARTS = re.compile(
    # a code: after a word that says so, or before the words of an HTTP status
    r"(?P<code>\b(?:http|errno|error|code|status|signal)\b[\s:='\"(]*\d+"
    r"|\b[45]\d\d(?= (?-i:[A-Z])))"
    # an id: of a run, of an object in memory, of a file written aside
    r"|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b0x[0-9a-f]+"
    r"|\b(?=[a-f]*\d)[0-9a-f]{8,}\b"
    # a time of day, and any number by itself; one within a name stays
    r"|\b\d[\d:.,-]*(?:T[\d:.]+Z?)?(?:[smh]|ms|min|[KMGT]i?B|B)?\b",
    re.IGNORECASE,
)


def fail_once(error: CogvxError | OSError) -> State[Any]:
    """The state of a run that fails as others did since the last one that ended well.

    What ends a run without an error, or by hand, is no reason and not looked at.

    Raises:
        CogvxError or OSError: This one, if its reason is new: the run is then Failed as any other.
    """
    reason = f"{type(error).__name__}: {error}"
    try:
        known = any(is_as_before(reason, each) for each in _messages())
    except TransientError as silent:
        logger.warning("so this failure is told, whether it is new or not: %s", silent)
        raise error from silent
    if not known:
        raise error
    logger.error("%s; as before, and told when it began", reason)
    return Failed(name=STILL_FAILING, message=f"as before: {reason}", data=error)


def is_as_before(reason: str, message: str) -> bool:
    """Whether a run that ended with this message did so for this reason, which is given whole.

    Times, counts and ids differ from look to look, so they are not compared. Codes are, as of HTTP
    or of the system: another one is another fault.
    """
    return _lasting(reason) == _lasting(_AROUND.sub("", message))


def _messages() -> list[str]:
    """Of the runs of this deployment that failed since the last one that did not."""
    messages: list[str] = []
    for run in _runs_before():
        if run.state is None or run.state.is_completed():
            break
        messages.append(run.state.message or "")
    return messages


def _runs_before() -> list[FlowRun]:
    """The runs of this deployment that ended, newest first; none where it is no deployment's."""
    deployment = runtime.deployment.id
    if deployment is None:
        return []
    mine = FlowRunFilterDeploymentId(any_=[deployment])
    with get_client(sync_client=True) as client, asking("look at the runs before"):
        return client.read_flow_runs(
            flow_run_filter=FlowRunFilter(deployment_id=mine, state=_ENDED),
            sort=FlowRunSort.END_TIME_DESC,
            limit=_BACK,
        )


def _lasting(reason: str) -> str:
    return _PARTS.sub(lambda part: part["code"] or "0", reason)
