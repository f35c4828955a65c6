"""Show the summary of a retraining in the Prefect UI."""

from prefect.artifacts import create_markdown_artifact

from tasks.documents import RetrainReport
from tasks.summary import summary_rows


def publish_summary(report: RetrainReport) -> RetrainReport:
    """Make the summary an artifact of the running flow; returns the report."""
    rows = "\n".join(f"| {name} | {fact} |" for name, fact in summary_rows(report))
    create_markdown_artifact(f"| | |\n|---|---|\n{rows}\n", key="retrain", description="Retraining")
    return report
