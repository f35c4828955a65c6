"""A question to a person: a flow run that Prefect suspends until somebody fills in its form.

A suspended run has no process; answered, it is run again from the top by its deployment's worker,
and the same question then gives the answer. Only a run that a deployment started can be suspended,
and no run that another waits for.
"""

import itertools
import math
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Cancelled, Scheduled
from pydantic import Field, ValidationError

from tasks.clients.pool import asking

# For an answer that was given in time, while no worker was there to take it.
_SLACK_SECONDS = 86_400


class Answer(RunInput):
    """The form. Prefect refuses what does not fit before the run goes on."""

    decision: Literal["approve", "reject"] = Field(
        description="approve: it becomes the champion. reject: it stays challenger."
    )
    reason: str = Field(
        pattern=r"\S", max_length=2000, description="One sentence, kept with the version."
    )
    name: str = Field(
        title="Your name", pattern=r"\S", max_length=200, description="Kept with the decision."
    )


def asking_run() -> UUID | None:
    """The flow run under way, if it can ask a person; None where nobody could answer."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.deployment_id is None or run.parent_task_run_id is not None:
        return None
    return run.id


def ask(text: str, until: datetime, *, about: str) -> Answer:
    """Suspend the run under way until a person answers; `text` is Markdown above the form.

    Returns only in the run that the answer started; before, the process ends here. `about` names
    what is asked: an answer to anything else that this run asked before is none, and it asks anew.
    """
    seconds = (until - datetime.now(UTC)).total_seconds() + _SLACK_SECONDS
    form = Answer.with_initial_data(description=text)
    for time in itertools.count(1):
        try:
            return suspend_flow_run(
                wait_for_input=form, timeout=math.ceil(max(seconds, 1)), key=f"{about}-{time}"
            )
        except ValidationError:
            # A person started the run again instead of answering: it asks once more.
            continue
    raise AssertionError  # as counting never ends


def remind(run: UUID, until: datetime) -> None:
    """Have the same work started again when the time is over, to find that nobody answered.

    Raises:
        TransientError: The server did not answer.
    """
    with get_client(sync_client=True) as client, asking("schedule the end of a question"):
        found = client.read_flow_run(run)
        if found.deployment_id is not None:
            client.create_flow_run_from_deployment(
                found.deployment_id,
                parameters=found.parameters,
                name=f"closes {found.name}",
                state=Scheduled(scheduled_time=until),
                idempotency_key=f"{run} until {until.isoformat()}",
                tags=[_tag(run)],
            )


def forget_reminder(run: UUID) -> None:
    """Remove what `remind` scheduled and has not begun.

    Raises:
        TransientError: The server did not answer.
    """
    with get_client(sync_client=True) as client, asking("remove the end of a question"):
        tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[_tag(run)]))
        for found in client.read_flow_runs(flow_run_filter=tagged):
            if found.state is not None and found.state.is_scheduled():
                client.delete_flow_run(found.id)


def is_reminder_of(run: UUID) -> bool:
    """Whether the flow run under way was scheduled for the end of this question."""
    context = FlowRunContext.get()
    return bool(context and context.flow_run and _tag(run) in context.flow_run.tags)


def is_open(run: UUID) -> bool:
    """Whether a question can still be answered, or just was.

    Raises:
        TransientError: The server did not answer.
    """
    with get_client(sync_client=True) as client:
        found = _read(client, run)
    return found is not None and found.state is not None and not found.state.is_final()


def close(run: UUID, why: str) -> bool:
    """End a question that nobody answered; False if it was answered just now.

    Raises:
        TransientError: The server did not answer.
    """
    with get_client(sync_client=True) as client:
        found = _read(client, run)
        if found is None or found.state is None or found.state.is_final():
            return True
        if not found.state.is_paused():
            return False
        with asking("end a question"):
            client.set_flow_run_state(run, Cancelled(message=why))
    return True


def _read(client: SyncPrefectClient, run: UUID) -> FlowRun | None:
    with asking("look at a question"):
        try:
            return client.read_flow_run(run)
        except ObjectNotFound:
            return None


def _tag(run: UUID) -> str:
    return f"ends:{run}"
