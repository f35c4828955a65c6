"""The report of an evaluation: one page that needs nothing else, a contact sheet, and the JSON.

The page holds its videos, styles and scripts, and forbids itself any request, so it opens from a
mail, a bucket or the sandboxed viewer of a tracking server, which shows at most 50 MiB.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cogvx import files
from cogvx.digest import digest
from cogvx.evaluation import charts, ordering
from cogvx.evaluation.documents import ArmSummary, EvaluationReport
from cogvx.evaluation.gallery import Shelf, Videos, fill_shelves
from cogvx.evaluation.pairs import Likeness, Stills, likenesses
from cogvx.evaluation.whiskers import metric_table
from cogvx.pages.contact_sheet import contact_sheet
from cogvx.pages.template import render_template

MAX_PAGE_BYTES = 50 * 2**20

_ROOM_FOR_TAGS = 1000  # bytes around each video
_SHARE_OF_PAIRS = 4  # one in so many bytes may be of pictures beside training clips
_LOUD_LINES = 6
_SHEET_ROWS = 24
_NO_STILLS: Stills = MappingProxyType({})
_HASH = re.compile(r"\b([0-9a-f]{16,64})\b")


@dataclass(frozen=True)
class ReportFiles:
    """Where the parts of a report lie."""

    html: Path
    contact_sheet: Path
    json: Path


@dataclass(frozen=True)
class Broken:
    """What is wrong with the evaluation itself, in sentences; more than a few are folded."""

    title: str
    first: tuple[str, ...]
    rest: tuple[str, ...]


def write_report(
    report: EvaluationReport, videos: Videos, folder: Path, *, stills: Stills = _NO_STILLS
) -> ReportFiles:
    """Write report.html, contact_sheet.png and report.json below `folder`.

    The same report and files give the same bytes.

    Args:
        report: As `judge` returns it.
        videos: Local mp4s by arm, prompt id and seed; one that is absent is shown as absent.
        folder: Made if need be; files of the same names are replaced.
        stills: A picture of each training clip that is some video's neighbour, by the clip's id.

    Raises:
        DataError: A file holds no video or picture.
    """
    done = ReportFiles(
        html=folder / "report.html",
        contact_sheet=folder / "contact_sheet.png",
        json=folder / "report.json",
    )
    files.write_bytes(done.contact_sheet, _sheet(report, videos))
    files.write_document(done.json, report)
    files.write_bytes(done.html, render_page(report, videos, stills=stills).encode())
    return done


def render_page(report: EvaluationReport, videos: Videos, *, stills: Stills = _NO_STILLS) -> str:
    """The page as text, at most 50 MiB: videos that no longer fit are named instead of shown."""
    alike = likenesses(report, videos, stills, room=MAX_PAGE_BYTES // _SHARE_OF_PAIRS)
    bare = _render(report, fill_shelves(report, {}, 0), alike)
    room = MAX_PAGE_BYTES - len(bare.encode()) - _ROOM_FOR_TAGS * len(videos)
    return _render(report, fill_shelves(report, videos, room), alike)


def _render(report: EvaluationReport, shelves: Sequence[Shelf], alike: Sequence[Likeness]) -> str:
    rows = [row for shelf in shelves for row in shelf.rows]
    clips = [clip for row in rows for clip in row.clips]
    return render_template(
        "cogvx.evaluation",
        "report_page/report.html.jinja",
        report=report,
        verdict=report.verdict,
        page_id=_page_id(report),
        chips=_chips(report),
        broken=_broken(report),
        table=metric_table(report),
        finds=any(row.detectable is not None for row in report.verdict.comparisons),
        shelves=shelves if clips or report.videos else (),
        votable=any(row.votable for row in rows),
        tiny=bool(clips) and all(clip.tiny for clip in clips),
        likenesses=alike,
        losses=charts.loss_chart(report),
        gains=charts.gain_chart(report),
        by_clip=charts.clip_losses(report),
        sweeps=charts.sweep_charts(report),
        sweep_rows=charts.sweep_table(report),
        origin=_origin(report),
        parts=_parts,
    )


def _page_id(report: EvaluationReport) -> str:
    """Names the contest, so that its blind shuffle is the same on every copy of the page."""
    arms = [[arm.name, [use.model_dump() for use in arm.adapters]] for arm in report.arms]
    return digest([report.model, report.suite, report.seeds, arms])[:16]


def _chips(report: EvaluationReport) -> tuple[str, ...]:
    verdict, sampling = report.verdict, report.sampling
    weights = {f"{use.weight:g}" for arm in report.arms for use in arm.adapters}
    size = [_counted(len(report.prompts), "prompt"), _counted(len(report.seeds), "seed")]
    how = [f"{sampling.steps} steps"]
    looked = ["seeds added after a HOLD"] if verdict.look == 2 else []
    if verdict.stage == "screen":
        looked = ["stopped by the screen, no video rendered"]
    return (
        f"{report.model}: {verdict.candidate} vs {verdict.reference}",
        " · ".join([" × ".join(size), *(f"weight {weight}" for weight in sorted(weights)), *how]),
        *looked,
    )


def _broken(report: EvaluationReport) -> Broken | None:
    """Faults first and loud: they make the verdict invalid, or lie in a row of videos below."""
    lines = report.verdict.reasons if report.verdict.outcome == "INVALID" else ()
    faulty = len(ordering.faulty_places(report))
    if not lines and not faulty:
        return None
    title = "What went wrong"
    lines = lines or (f"{_counted(faulty, 'row')} of videos below have faults.",)
    return Broken(title, lines[:_LOUD_LINES], lines[_LOUD_LINES:])


def _origin(report: EvaluationReport) -> tuple[tuple[str, str], ...]:
    """Names and values, hashes in full."""
    sampling = report.sampling
    how = f"{sampling.sampler}, {sampling.steps} steps, guidance {sampling.guidance:g}"
    dynamic = ", dynamic" if sampling.dynamic_guidance else ""
    seeds = ", ".join(str(seed) for seed in report.seeds)
    negative = f", negative prompt {sampling.negative_prompt!r}" if sampling.negative_prompt else ""
    return (
        ("model", report.model),
        ("suite", f"{report.suite_name} {report.suite}"),
        ("sampling", f"{how}{dynamic}{negative}; seeds {seeds}"),
        *((arm.name, _adapters(arm)) for arm in report.arms),
        *sorted(report.provenance.items()),
    )


def _adapters(arm: ArmSummary) -> str:
    used = [f"adapter {use.sha256} at weight {use.weight:g}" for use in arm.adapters]
    return ", ".join(used) or "no adapter"


def _parts(value: str) -> list[tuple[str, bool]]:
    """A line cut at its hashes, so that each can be selected alone."""
    return [(part, bool(_HASH.fullmatch(part))) for part in _HASH.split(value) if part]


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def _sheet(report: EvaluationReport, videos: Videos) -> bytes:
    """All seeds of few prompts; of many, each prompt with another seed than the one before."""
    arms = [arm.name for arm in report.arms]
    places: Sequence[ordering.Place] = ordering.all_places(report)
    if len(places) > _SHEET_ROWS:
        places = _one_seed_each(places)
    rows = [
        (
            f"seed {seed}: {report.prompts[prompt]}",
            [videos.get((arm, prompt, seed)) for arm in arms],
        )
        for prompt, seed in places
    ]
    title = f"{report.verdict.outcome}   {report.model}   suite {report.suite_name}"
    return contact_sheet(rows, arms, title)


def _one_seed_each(places: Sequence[ordering.Place]) -> list[ordering.Place]:
    seeds: dict[str, list[int]] = {}
    for prompt, seed in places:
        seeds.setdefault(prompt, []).append(seed)
    return [
        (prompt, found[number % len(found)]) for number, (prompt, found) in enumerate(seeds.items())
    ]
