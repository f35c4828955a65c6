"""What runs of a deployment hand back: a small document in the store, under the id of the run."""

from typing import TypeVar

from prefect.context import FlowRunContext
from pydantic import BaseModel

from cogvx.digest import canonical_json
from cogvx.store import ObjectStore
from tasks.pools.fan_out import Elsewhere
from tasks.pools.lookout import Bounds
from tasks.settings import Settings
from tasks.workbench import read_stored

ReportT = TypeVar("ReportT", bound=BaseModel)

_REPORTS = "shards"


def elsewhere(
    deployment: str, kind: type[ReportT], store: ObjectStore, here: Settings
) -> Elsewhere[ReportT] | None:
    """Where runs of this deployment leave such reports; None where the settings name none."""
    if not deployment:
        return None
    return Elsewhere(
        deployment=deployment,
        report=lambda run: read_stored(store, f"{_REPORTS}/{run}.json", kind),
        bounds=Bounds(
            patience=here.worker_patience_seconds,
            lost=here.lost_seconds,
            stage=here.stage_hours * 3600,
        ),
    )


def leave(store: ObjectStore, report: ReportT) -> ReportT:
    """Keep a report where whoever started this run from afar reads it; returns the report."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is not None and run.deployment_id is not None:
        store.write(f"{_REPORTS}/{run.id}.json", canonical_json(report))
    return report
