"""What a stage did, as pairs of a short name and a fact; the terminal and the UI show the same."""

from cogvx.preflight.compare import comparison
from tasks.documents import (
    CacheReport,
    EvaluateReport,
    PromoteReport,
    RegisterReport,
    RetrainReport,
    TrainReport,
    Unchanged,
)
from tasks.generation.generate_documents import GenerateReport
from tasks.retraining.costs import cost_rows

Row = tuple[str, str]


def summary_rows(report: RetrainReport) -> list[Row]:
    """What happened, as pairs of a short name and a fact, in the order in which it happened."""
    if report.unchanged is not None:
        return _unchanged_rows(report.unchanged)
    rows: list[Row] = []
    rows += cache_rows(report.cache) if report.cache else []
    rows += train_rows(report.train) if report.train else []
    aliases = report.promote.aliases if report.promote else ()
    rows += register_rows(report.register_, aliases) if report.register_ else []
    rows += evaluate_rows(report.evaluate) if report.evaluate else []
    rows += promote_rows(report.promote) if report.promote else []
    rows += cost_rows(report.cost) if report.cost else []
    return rows


def cache_rows(report: CacheReport) -> list[Row]:
    """Clips and records."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in report.rejected.items())
    rejected = f"{sum(report.rejected.values())} rejected" + (f" ({reasons})" if reasons else "")
    changed = [] if report.diff is None else [("changed", str(report.diff))]
    return [
        ("clips", f"{report.accepted} accepted ({report.heldout} held out), {rejected}"),
        *changed,
        *([("dataset", report.page)] if report.page else []),
        ("records", f"{report.records_encoded} encoded, {report.records_reused} reused"),
    ]


def train_rows(report: TrainReport) -> list[Row]:
    """Steps, losses and the adapter's file."""
    how = f"{report.steps} steps" if report.trained else f"{report.steps} steps, done before"
    if report.trained and report.resumed_from:
        how += f", resumed from step {report.resumed_from}"
    if report.best_step is not None:
        how += f", best at step {report.best_step}"
    heldout = ""
    if report.heldout_before is not None and report.heldout_after is not None:
        heldout = f", held-out loss {report.heldout_before:.4f} -> {report.heldout_after:.4f}"
    loss = "" if report.train_loss is None else f", loss {report.train_loss:.4f}"
    took = [("", comparison(report.measured))] if report.trained and report.measured else []
    return [("training", how + loss + heldout), *took, ("adapter", report.adapter)]


def register_rows(report: RegisterReport, aliases: tuple[str, ...] = ()) -> list[Row]:
    """Name, version and aliases; `aliases` are those after promotion, where that is known."""
    names = aliases or report.aliases
    known = "" if report.created else " (registered before)"
    version = f"{report.name} version {report.version}{known}"
    return [("registry", f"{version}, aliases: {', '.join(names) or 'none'}")]


def evaluate_rows(report: EvaluateReport) -> list[Row]:
    """Report, verdict and its reasons."""
    videos = f"{report.videos_rendered} rendered, {report.videos_reused} reused"
    rows = [
        ("videos", videos),
        ("report", report.report),
        ("look here", report.sheet),
        ("verdict", f"{report.verdict} against {report.reference}"),
    ]
    return rows + [("", f"- {reason}") for reason in report.reasons]


def promote_rows(report: PromoteReport) -> list[Row]:
    """What happened to the champion."""
    return [("champion", report.reason)]


def _unchanged_rows(unchanged: Unchanged) -> list[Row]:
    version = f"{unchanged.name} version {unchanged.version}"
    aliases = ", ".join(unchanged.aliases) or "none"
    review = [("review", unchanged.review)] if unchanged.review else []
    return [
        ("unchanged", "neither the clips, nor the recipe, nor the base model changed"),
        ("registry", f"{version}, aliases: {aliases}, verdict {unchanged.verdict}"),
        *review,
        ("next", "add clips or edit the recipe; nothing was encoded, trained or rendered"),
    ]


def generate_rows(report: GenerateReport) -> list[Row]:
    """Videos and where they are; those that could not be made by name."""
    there = report.videos - report.made - len(report.failed)
    counts = f"{report.made} made, {there} there before, {len(report.failed)} failed"
    return [
        ("videos", counts),
        ("folder", report.folder),
        ("page", report.page),
        *(("failed", f"{video.name}: {video.why}") for video in report.failed),
    ]
