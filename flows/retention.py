"""Remove from the store what no version that is kept needs any more."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from cogvx.form import in_form
from tasks.keeping.deployed_forks import deployed_forks
from tasks.keeping.housekeeping_documents import RetentionReport
from tasks.keeping.retention import sweep_store

Days = Annotated[float, Field(ge=0, le=36_500)]
Apply = Annotated[bool, in_form("Remove", "Off: only say what would go, and why")]
KeepDays = Annotated[
    Days, in_form("Keep, days", "Younger versions and manifests keep what they reach, 0 to 36500")
]
GraceDays = Annotated[
    Days, in_form("Grace, days", "Younger objects all stay: a run may be about to need them")
]
KeepLast = Annotated[
    int,
    Field(ge=0, le=100_000),
    in_form("Keep, versions", "So many of each model keep what they reach, however old"),
]


@flow(name="retention", flow_run_name="retention, apply = {apply}")
def retention(
    *,
    apply: Apply = False,
    keep_days: KeepDays = 30.0,
    grace_days: GraceDays = 7.0,
    keep_last: KeepLast = 3,
) -> RetentionReport:
    """Say what may go and why; with `apply`, remove it after the grace period.

    Champions, all that ever were, versions with an alias or the tag `cogvx.keep`, those younger
    than `keep_days`, the `keep_last` of each model and runs that are under way keep everything, and
    so do runs that a deployed recipe names in `train.fork_of`.
    """
    return sweep_store(
        apply=apply,
        keep_days=keep_days,
        grace_days=grace_days,
        keep_last=keep_last,
        begun_with=deployed_forks,
    )
