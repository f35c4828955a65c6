"""The report of an evaluation: one page that needs nothing else, a contact sheet, and the JSON.

The page holds its videos, styles and scripts, and forbids itself any request, so it opens from a
mail, a bucket or the sandboxed viewer of a tracking server, which shows at most 50 MiB.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cogvx import files
from cogvx.evaluation import charts, ordering
from cogvx.evaluation.documents import ArmHeldout, EvaluationReport
from cogvx.evaluation.ordering import Place
from cogvx.evaluation.pictures import Clip, page_clip
from cogvx.metrics.registry import metrics
from cogvx.pages.contact_sheet import contact_sheet
from cogvx.pages.template import render_template

MAX_PAGE_BYTES = 50 * 2**20

_ROOM_FOR_TEXT = 2 * 2**20
_CAPTION_METRICS = 3

Videos = Mapping[tuple[str, str, int], Path]


@dataclass(frozen=True)
class ReportFiles:
    """Where the parts of a report lie."""

    html: Path
    contact_sheet: Path
    json: Path


@dataclass(frozen=True)
class Figure:
    """One arm's video in a row; `clip` is None where there is none or the page is full."""

    arm: str
    numbers: str
    clip: Clip | None
    absent: str
    label: str


@dataclass(frozen=True)
class Row:
    """One prompt and seed, side by side in all arms."""

    prompt_id: str
    prompt: str
    seed: int
    change: str
    figures: tuple[Figure, ...]


def write_report(report: EvaluationReport, videos: Videos, folder: Path) -> ReportFiles:
    """Write report.html, contact_sheet.png and report.json below `folder`.

    The same report and videos give the same bytes.

    Args:
        report: As `judge` returns it.
        videos: Local mp4s by arm, prompt id and seed; one that is absent is shown as absent.
        folder: Made if need be; files of the same names are replaced.

    Raises:
        DataError: A file holds no video.
    """
    done = ReportFiles(
        html=folder / "report.html",
        contact_sheet=folder / "contact_sheet.png",
        json=folder / "report.json",
    )
    files.write_bytes(done.contact_sheet, _sheet(report, videos))
    files.write_document(done.json, report)
    files.write_bytes(done.html, render_page(report, videos).encode())
    return done


def render_page(report: EvaluationReport, videos: Videos) -> str:
    """The page as text, at most 50 MiB: what no longer fits is named instead of shown."""
    arms = [arm.name for arm in report.arms]
    sections = _sections(report, videos)
    clips = [figure.clip for _, rows in sections for row in rows for figure in row.figures]
    return render_template(
        "cogvx.evaluation",
        "report.html.jinja",
        report=report,
        verdict=report.verdict,
        metrics=[charts.metric_row(row) for row in report.verdict.comparisons],
        sections=sections,
        tiny=all(clip.tiny for clip in clips if clip),
        chart=charts.loss_chart(report.heldout, arms),
        chart_size=(charts.CURVE_WIDTH, charts.CURVE_HEIGHT),
        clip_losses=_clip_losses(report.heldout, arms),
        fps=max([clip.fps for clip in clips if clip], default=1.0),
        abouts={name: metric.about for name, metric in metrics().items()},
        roles={arm.name: arm.role for arm in report.arms},
    )


def _sections(
    report: EvaluationReport, videos: Videos
) -> list[tuple[ordering.VideoSection, list[Row]]]:
    """Sections in the page's order, filled until the page has no room left."""
    changes = ordering.video_changes(report)
    shown = [row.metric for row in report.verdict.comparisons if row.per == "prompt"]
    numbers = ordering.metric_values(report, shown[:_CAPTION_METRICS])
    room = MAX_PAGE_BYTES - _ROOM_FOR_TEXT
    filled = []
    for section in ordering.video_sections(report):
        rows = []
        for place in section.places:
            figures = []
            for arm in report.arms:
                key = (arm.name, *place)
                clip = page_clip(videos[key]) if key in videos and room > 0 else None
                if clip is not None and clip.size > room:
                    clip, room = None, 0
                room -= clip.size if clip else 0
                absent = "no room left on this page" if key in videos else "no video"
                label = f"{arm.name}, {place[0]}, seed {place[1]}"
                figures.append(Figure(arm.name, numbers.get(key, ""), clip, absent, label))
            rows.append(_row(report, place, changes, tuple(figures)))
        filled.append((section, rows))
    return filled


def _row(
    report: EvaluationReport,
    place: Place,
    changes: Mapping[Place, float],
    figures: tuple[Figure, ...],
) -> Row:
    change = f"{changes[place]:+.2f}" if place in changes else ""
    return Row(place[0], report.prompts[place[0]], place[1], change, figures)


def _sheet(report: EvaluationReport, videos: Videos) -> bytes:
    seed = report.seeds[0]
    arms = [arm.name for arm in report.arms]
    rows = [
        (words, [videos.get((arm, prompt, seed)) for arm in arms])
        for prompt, words in report.prompts.items()
    ]
    title = f"{report.verdict.outcome}   {report.model}   suite {report.suite_name}, seed {seed}"
    return contact_sheet(rows, arms, title)


def _clip_losses(heldout: tuple[ArmHeldout, ...], arms: list[str]) -> list[tuple[str, list[str]]]:
    """Mean loss of each held-out clip, one column per arm."""
    sums: dict[tuple[str, str], list[float]] = {}
    for score in heldout:
        sums.setdefault((score.clip, score.arm), []).append(score.loss)
    means = {key: sum(losses) / len(losses) for key, losses in sums.items()}
    return [
        (clip, [f"{means[clip, arm]:.4g}" if (clip, arm) in means else "" for arm in arms])
        for clip in dict.fromkeys(score.clip for score in heldout)
    ]
