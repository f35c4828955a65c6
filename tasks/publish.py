"""Show the summary of a retraining in the Prefect UI."""

from prefect.artifacts import create_markdown_artifact

from tasks.documents import RetrainReport
from tasks.shown import shown
from tasks.summary import summary_rows


def publish_summary(report: RetrainReport) -> RetrainReport:
    """Make the summary an artifact of the running flow; returns the report."""
    rows = "\n".join(f"| {name} | {fact} |" for name, fact in summary_rows(report))
    table = f"| | |\n|---|---|\n{rows}\n"
    with shown("summary"):
        create_markdown_artifact(table, key="retrain", description="Retraining")
    return report
