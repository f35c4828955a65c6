"""What a sweep of the store takes and what versions keep, for people: log lines and two tables."""

import logging

from prefect.artifacts import create_table_artifact

from tasks.keeping.housekeeping_documents import RetentionReport
from tasks.pages.progress import is_watched
from tasks.pages.shown import shown

logger = logging.getLogger(__name__)


def show_retention(report: RetentionReport) -> None:
    """Say what goes and why, in the log and as tables in the Prefect UI."""
    verb = "removed" if report.applied else "would remove"
    for going in report.goes:
        logger.info("%s %d %s: %s", verb, going.objects, going.kind, going.why)
    for fate in report.versions:
        if not fate.stays:
            logger.info("%s: %s", fate.name, fate.why)
    logger.info("%s %d objects, %d bytes", verb, report.objects, report.bytes)
    rows = [
        {**going.model_dump(exclude={"examples"}), "examples": ", ".join(going.examples)}
        for going in report.goes
    ]
    total = f"{verb} {report.objects} objects, {report.bytes / 2**30:.2f} GiB"
    fates = [fate.model_dump() for fate in sorted(report.versions, key=lambda one: one.stays)]
    if is_watched():
        with shown("what is kept"):
            create_table_artifact(rows, key="retention", description=f"{total}, of {report.store}")
            create_table_artifact(fates, key="retention-versions", description="What versions keep")
