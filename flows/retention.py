"""Remove from the store what no version that is kept needs any more."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.documents import RetentionReport
from tasks.retention import sweep_store

Days = Annotated[float, Field(ge=0, le=36_500)]


@flow(name="retention", flow_run_name="retention, apply = {apply}")
def retention(
    *,
    apply: bool = False,
    keep_days: Days = 30.0,
    grace_days: Days = 7.0,
    keep_last: Annotated[int, Field(ge=0)] = 3,
) -> RetentionReport:
    """Say what may go and why; with `apply`, remove it after the grace period.

    Champions, all that ever were, versions with an alias or the tag `cogvx.keep`, those younger
    than `keep_days`, the `keep_last` of each model and runs that are under way keep everything.
    """
    return sweep_store(apply=apply, keep_days=keep_days, grace_days=grace_days, keep_last=keep_last)
