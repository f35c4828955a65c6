"""The one door through which a flow runs another.

Children run in this process, one after the other, which is the embedded default; there a child that
is cancelled takes its parent along. Told so, they run elsewhere, as runs of a deployment.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from prefect import Flow, tags
from prefect.utilities.annotations import quote

from cogvx.digest import digest
from cogvx.errors import CogvxError, error_from_name
from cogvx.recipe import Recipe
from tasks.clients.pool import open_pool, page_of_run
from tasks.pages.progress import Progress
from tasks.pools.children import Child, Ended
from tasks.pools.fan_out import Elsewhere, run_on_pool
from tasks.pools.stages import Stages

logger = logging.getLogger(__name__)

ReportT = TypeVar("ReportT")
DocumentT = TypeVar("DocumentT")


def in_one_piece(document: DocumentT) -> DocumentT:
    """A large document on its way to a task; the task gets the document itself.

    Prefect otherwise looks for other runs' results in its every part, twice: a second for 10,000
    clips.
    """
    return cast("DocumentT", quote(document))


def run_child(
    flow: Flow[[Recipe], ReportT],
    recipe: Recipe,
    *,
    elsewhere: Elsewhere[ReportT] | None = None,
    stages: Stages | None = None,
) -> ReportT:
    """Run a stage's flow to its end and return its report; its failure is raised here.

    Args:
        flow: Idempotent, as `run_children` asks.
        recipe: What the stage works on.
        elsewhere: The deployment of `flow` to run it by; without it it runs in this process.
        stages: The table of a parent with several stages, to stand in.

    Raises:
        CogvxError: As the child raised it; also as `run_children` does.
    """
    stages = stages or Stages(flow.name)
    if elsewhere is None:
        with stages.stage(flow.name) as show_page:
            # Asked for its state, a flow that fails does not raise; a cancellation still does.
            state: Any = flow(recipe, return_state=True)
            show_page(page_of_run(state.state_details.flow_run_id))
            return cast("ReportT", state.result())
    document = recipe.model_dump(mode="json", exclude_none=True)  # forms know no null
    # What the clips are now decides what the child does; it looks them up itself.
    child = Child(
        name=f"{flow.name} {recipe.name}",
        key=digest([flow.name, document]),
        parameters={"recipe": document},
    )
    with open_pool(elsewhere.deployment) as pool:
        ended = run_on_pool(pool, [child], elsewhere=elsewhere, on_seen=stages.show)
    return require_all(ended)[0]


def run_children(
    flow: Flow[..., ReportT],
    children: Sequence[Child],
    *,
    what: str,
    elsewhere: Elsewhere[ReportT] | None = None,
) -> tuple[Ended[ReportT], ...]:
    """Run a flow once for each child, and let every child end; one that fails, fails alone.

    Args:
        flow: Idempotent, so that a parent that is run again may run its children again.
        children: In the order in which they begin.
        what: Names the progress of the children, where there are several.
        elsewhere: The deployment of `flow` to run them by; without it they run in this process.

    Returns:
        How each child ended, in the order of `children`; nothing is raised for a failure.

    Raises:
        ConfigError: The deployment is not there, or of another flow.
        TransientError: Prefect's server, which is to run them elsewhere, did not answer.
    """
    progress = Progress(what, "shards", logger)
    done: list[Ended[ReportT]] = []

    def note(ended: Ended[ReportT]) -> None:
        done.append(ended)
        if ended.error is not None:
            logger.error("%s failed: %s", ended.child.name, _reason(ended.error))
        if len(children) > 1:  # an only child shows its own
            progress(len(done), len(children))

    if elsewhere is not None and children:
        with open_pool(elsewhere.deployment) as pool:
            return run_on_pool(
                pool,
                children,
                elsewhere=elsewhere,
                on_ended=note,
                on_seen=Stages(f"{what} by run").show,
            )
    for child in children:
        note(_run(flow, child))
    return tuple(done)


def require_all(ended: Sequence[Ended[ReportT]]) -> tuple[ReportT, ...]:
    """The children's reports, if all have one.

    Raises:
        CogvxError: Children failed; it is of their kind if they agree on one, names each, says why,
            and where a person sees more. The error of an only child that ran here is raised as it
            is.
    """
    failed = [(one, one.error) for one in ended if one.error is not None]
    if not failed:
        return tuple(one.report for one in ended if one.report is not None)
    first, cause = failed[0]
    if len(ended) == 1 and not first.page:
        raise cause
    kinds = {type(error).__name__ for _, error in failed}
    kind = kinds.pop() if len(kinds) == 1 else ""
    if len(ended) == 1:
        where = f"in {first.child.name}: {first.page}"
        raise error_from_name(kind, f"{_reason(cause)}\n{where}") from cause
    lines = [f"{len(failed)} of {len(ended)} failed; what was made is kept, run again for the rest"]
    lines += [f"  - {one.child.name}: {_reason(error)}{_place(one)}" for one, error in failed]
    raise error_from_name(kind, "\n".join(lines)) from cause


def _run(flow: Flow[..., ReportT], child: Child) -> Ended[ReportT]:
    began = time.monotonic()
    # Asked for its state, a flow that fails does not raise; a cancellation still does.
    with tags(child.tag):
        state: Any = flow(**child.parameters, return_state=True)
    result = state.result(raise_on_failure=False)
    seconds = time.monotonic() - began
    if state.is_completed():
        return Ended(child, seconds, report=result)
    return Ended(child, seconds, error=result)


def _place(ended: Ended[ReportT]) -> str:
    return f"\n    {ended.page}" if ended.page else ""


def _reason(error: BaseException) -> str:
    """Our own sentences stand alone; any other error is a bug, and its type helps to find it."""
    return str(error) if isinstance(error, CogvxError) else f"{type(error).__name__}: {error}"
