"""Keep a judgement where people and programs look: MLflow's run and version, Prefect's pages."""

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from cogvx.evaluation.compare import number, signed
from cogvx.evaluation.documents import EvaluationReport, Verdict
from cogvx.evaluation.history import Judgement, Measure, judgement_of
from tasks.clients.registry import Point, Registry, Version
from tasks.clients.versions import (
    COMPARISONS_TAG,
    HEADLINE_TAG,
    JUDGED_AT_TAG,
    JUDGED_TAG,
    LOOK_TAG,
    NEXT_TAG,
    NO_CHAMPION,
    REFERENCE_TAG,
    RULE_TAG,
    STAGE_TAG,
    SUITE_TAG,
    VERDICT_TAG,
)
from tasks.pages.assets import tell_asset
from tasks.pages.labels import tag_run
from tasks.pages.progress import is_watched
from tasks.pages.shown import shown
from tasks.registry.history import HISTORY_FILE, links_of, metric_key, model_history, write_history

TABLE = "evaluation/prompts.json"
_FOLDER = "evaluation"
# What the smallest of MLflow's databases takes as a tag.
_TAG_CHARACTERS = 5000
_NO_VALUE = "-"


def keep_judgement(
    registry: Registry,
    version: Version,
    report: EvaluationReport,
    *,
    reference: str,
    judged: str,
    page: str = "",
) -> None:
    """Keep what a report says with its version and run, and show it in Prefect.

    Again, it takes the place of what was kept before.

    Args:
        registry: Where the version is.
        version: Who was judged.
        report: What was found.
        reference: Number of the version that it was compared with, or NO_CHAMPION.
        judged: Names all that the verdict depends on, see `tasks.lineage.judgement`.
        page: Where the report lies on this machine, for those who have no MLflow with pages.
    """
    tag_run(f"verdict:{report.verdict.outcome}")
    against = None if reference == NO_CHAMPION else int(reference)
    judgement = judgement_of(report, against=against, when=datetime.now(UTC).replace(microsecond=0))
    registry.log_metrics(version.run_id, points_of(report.verdict))
    columns, rows = prompt_table(report)
    registry.log_table(version.run_id, TABLE, columns=columns, rows=rows)
    tags = judgement_tags(judgement)
    registry.set_run_tags(version.run_id, tags)
    # One tag at a time is written: killed between them, what is there counts as no judgement.
    registry.tag_version(version.name, version.version, {JUDGED_TAG: ""})
    kept = {REFERENCE_TAG: reference, **tags, JUDGED_TAG: judged}
    registry.tag_version(version.name, version.version, kept)
    with tempfile.TemporaryDirectory() as scratch:
        path = write_history(model_history(registry, version.name), Path(scratch) / HISTORY_FILE)
        registry.log_artifact(version.run_id, path, folder=_FOLDER)
    run = registry.facts_of_runs([version.run_id]).get(version.run_id)
    links = links_of(registry, version, run) or ({"report": page} if page else {})
    show_judgement(f"{version.name} version {version.version}", version.name, judgement, links)
    facts = {"version": version.version, "verdict": judgement.verdict}
    tell_asset(version.name, "report", facts, url=links.get("report", ""))


def show_judgement(
    who: str, model: str, judgement: Judgement, links: Mapping[str, str], *, page: str = ""
) -> None:
    """Make the judgement artifacts of the flow run under way, if there is one.

    `page` stands in for the judgement's own, where a person is asked about it.
    """
    if not is_watched():
        return
    key = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    about = f"{who}: {judgement.verdict} against {judgement.reference}"
    text = page or judgement_page(who, judgement, links)
    with shown("verdict"):
        create_markdown_artifact(text, key=f"verdict-{key}", description=about)
        if judgement.measures:
            rows = [_cells(measure) for measure in judgement.measures]
            create_table_artifact(rows, key=f"metrics-{key}", description=about)


def judgement_page(
    who: str,
    judgement: Judgement,
    links: Mapping[str, str],
    *,
    note: str = "",
    picture: str = "",
) -> str:
    """Verdict, next step, links, picture and table as Markdown; Prefect shows no HTML in it.

    `note` stands in for the next step; `picture` is the address of frames to look at.
    """
    step = f"Next: {_plain(judgement.next_step)}" if judgement.next_step else ""
    parts = [
        f"# {judgement.verdict}: {who}",
        f"**{_plain(judgement.headline)}** Against {judgement.reference}.",
        note or step,
        " · ".join(_link(name, address) for name, address in links.items()),
        f"![Frames of base, reference and challenger]({picture})" if picture else "",
        _table(judgement.measures),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def judgement_tags(judgement: Judgement) -> dict[str, str]:
    """A judgement but for its numbers, which are metrics, and whom it was against."""
    when = "" if judgement.when is None else judgement.when.isoformat()
    return {
        SUITE_TAG: judgement.suite,
        RULE_TAG: judgement.rule,
        STAGE_TAG: judgement.stage,
        LOOK_TAG: judgement.look,
        HEADLINE_TAG: judgement.headline[:_TAG_CHARACTERS],
        NEXT_TAG: judgement.next_step[:_TAG_CHARACTERS],
        COMPARISONS_TAG: _comparisons(judgement.measures),
        JUDGED_AT_TAG: when,
        VERDICT_TAG: judgement.verdict,
    }


def points_of(verdict: Verdict) -> list[Point]:
    """Each arm's mean of each metric, the effect with its bounds, and the composite."""
    found: dict[str, float | None] = {}
    for row in verdict.comparisons:
        values = {
            "base": row.base,
            "reference": row.reference,
            "candidate": row.candidate,
            "effect": row.effect.mean,
            "effect_low": row.effect.low,
            "effect_high": row.effect.high,
            "limit": row.limit,
            "yardstick": row.yardstick,
            "won": row.effect.won,
            "lost": row.effect.lost,
        }
        found |= {f"{metric_key(row.label)}/{name}": value for name, value in values.items()}
    whole = verdict.composite
    if whole is not None:
        found |= {"composite": whole.mean, "composite_low": whole.low, "composite_high": whole.high}
    return [
        Point(f"eval/{name}", float(value)) for name, value in found.items() if value is not None
    ]


def prompt_table(
    report: EvaluationReport,
) -> tuple[list[str], list[list[str | float | None]]]:
    """One row a prompt: its words, and for each metric both arms' means over seeds and the change.

    The change is plainly candidate minus reference.
    """
    sums: dict[tuple[str, str, str], list[float]] = {}
    for score in report.scores:
        sums.setdefault((score.arm, score.prompt, score.metric), []).append(score.value)
    for reading in report.readings:
        sums.setdefault((reading.arm, reading.unit, reading.metric), []).append(reading.value)
    means = {place: sum(values) / len(values) for place, values in sums.items()}
    # once, though several lines may judge it: over other groups, or as a guard beside a primary
    asked = (row.metric for row in report.verdict.comparisons if row.per == "prompt")
    metrics = list(dict.fromkeys(asked))
    new, old = report.verdict.candidate, report.verdict.reference
    columns = ["id", "prompt"]
    columns += [f"{metric} {of}" for metric in metrics for of in (old, new, "change")]
    rows: list[list[str | float | None]] = []
    for prompt, words in report.prompts.items():
        row: list[str | float | None] = [prompt, words]
        for metric in metrics:
            before, after = (means.get((arm, prompt, metric)) for arm in (old, new))
            change = None if before is None or after is None else after - before
            row += [before, after, change]
        rows.append(row)
    return columns, rows


def _comparisons(measures: Sequence[Measure]) -> str:
    """Role, result and unit by metric; information gives way where a tag has no room for all."""
    told = {each.metric: [each.role, each.result, each.unit] for each in measures}
    text = json.dumps(told, ensure_ascii=False)
    if len(text) <= _TAG_CHARACTERS:
        return text
    asked = {metric: what for metric, what in told.items() if what[0] != "info"}
    text = json.dumps(asked, ensure_ascii=False)
    return text if len(text) <= _TAG_CHARACTERS else ""


def _cells(measure: Measure) -> dict[str, str]:
    """One row in plain text: Prefect's tables show no markup, and break on an infinity."""
    between = _NO_VALUE
    if measure.low is not None and measure.high is not None:
        between = f"{signed(measure.low)} to {signed(measure.high)}"
    return {
        "metric": measure.metric,
        "role": measure.role,
        "result": measure.result,
        "reference": _number(measure.reference),
        "candidate": _number(measure.candidate),
        "effect": _NO_VALUE if measure.effect is None else signed(measure.effect),
        "interval": between,
        "limit": _number(measure.limit),
        "unit": measure.unit,
    }


def _number(value: float | None) -> str:
    return _NO_VALUE if value is None else number(value)


def _table(measures: Sequence[Measure]) -> str:
    if not measures:
        return ""
    # What decides comes first: above Prefect's form there is room for three columns.
    lines = ["| metric | result | effect | role | means | limit |", "|" + "---|" * 6]
    for measure in measures:
        row = _cells(measure)
        effect = row["effect"]
        if row["interval"] != _NO_VALUE:
            effect += f" ({row['interval']})"
        means = f"{row['reference']} → {row['candidate']} {row['unit']}"
        cells = (row["metric"], row["result"], effect, row["role"], means, row["limit"])
        lines.append("| " + " | ".join(map(_plain, cells)) + " |")
    return "\n".join(lines)


def _link(name: str, address: str) -> str:
    is_page = address.startswith(("http://", "https://"))
    return f"[{name}]({address})" if is_page else f"{name}: `{address}`"


def _plain(text: str) -> str:
    """A text that Markdown shows as it is, in a table as well."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text).replace("\n", " ")
