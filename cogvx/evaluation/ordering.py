"""Which videos a reader sees first: faulty ones, big losses, big wins, some that nobody chose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cogvx.digest import digest
from cogvx.evaluation.documents import Comparison, EvaluationReport
from cogvx.evaluation.integrity import LIFELESS
from cogvx.metrics.registry import metrics

_PER_SECTION = 2

Place = tuple[str, int]


@dataclass(frozen=True)
class VideoSection:
    """Prompts and seeds under one heading; a collapsed section opens on a click."""

    title: str
    about: str
    places: tuple[Place, ...]
    collapsed: bool = False
    faulty: bool = False


def video_changes(report: EvaluationReport) -> dict[Place, float]:
    """How much each prompt and seed changed, in margins or seed SDs; negative is worse.

    The mean over the video metrics that the verdict rests on: its primaries, or its guards where no
    primary is measured on videos. Departing from a metric without a better side is a loss.
    """
    rows = [row for row in report.verdict.comparisons if row.per == "prompt"]
    deciding = [row for row in rows if row.role == "primary"] or [
        row for row in rows if row.role == "guard"
    ]
    scales = {row.metric: _scale(row) for row in deciding if _scale(row)}
    directions = {row.metric: row.direction for row in deciding}
    values = {
        (score.arm, score.metric, score.prompt, score.seed): score.value
        for score in report.scores
        if score.metric in scales
    }
    verdict, changes = report.verdict, {}
    for place in all_places(report):
        gains = []
        for metric, scale in scales.items():
            old = values.get((verdict.reference, metric, *place))
            new = values.get((verdict.candidate, metric, *place))
            if old is not None and new is not None:
                sign = directions[metric]
                gains.append((sign * (new - old) if sign else -abs(new - old)) / scale)
        if gains:
            changes[place] = sum(gains) / len(gains)
    return changes


def video_sections(report: EvaluationReport) -> tuple[VideoSection, ...]:
    """Every prompt and seed once, the most telling first. Typical ones are drawn by hash."""
    places, changes = all_places(report), video_changes(report)
    faulty = faulty_places(report)
    sound = [place for place in places if place not in faulty]
    ranked = sorted(
        (place for place in sound if place in changes), key=lambda place: (changes[place], place)
    )
    losses = [place for place in ranked if changes[place] < 0][:_PER_SECTION]
    wins = [place for place in reversed(ranked) if changes[place] > 0][:_PER_SECTION]
    left = [place for place in sound if place not in losses and place not in wins]
    typical = sorted(left, key=lambda place: digest([report.suite, *place]))[:_PER_SECTION]
    rest = [place for place in left if place not in typical]
    who = report.verdict.candidate
    sections = (
        VideoSection("Failures", "videos with faults, or without a file", faulty, faulty=True),
        VideoSection("Biggest losses", f"where {who} lost most", tuple(losses)),
        VideoSection("Biggest wins", "where it gained most", tuple(wins)),
        VideoSection("Typical", "drawn by hash, not picked", tuple(typical)),
        VideoSection("All others", f"{len(rest)} more", tuple(rest), collapsed=True),
    )
    return tuple(section for section in sections if section.places)


def faulty_places(report: EvaluationReport) -> tuple[Place, ...]:
    """Where a fault counts against an arm, or an arm has no video although it has others.

    As in `cogvx.evaluation.integrity`: what is flat or frozen in the reference is told and counts,
    and is no fault of a challenger that draws it so as well.
    """
    faults = {(video.arm, video.prompt, video.seed): set(video.faults) for video in report.videos}
    arms = dict.fromkeys(video.arm for video in report.videos)
    verdict, found = report.verdict, []
    for place in all_places(report):
        old = faults.get((verdict.reference, *place), set())
        new = faults.get((verdict.candidate, *place), set())
        missing = any((arm, *place) not in faults for arm in arms)
        if missing or old - LIFELESS or new - (old & LIFELESS):
            found.append(place)
    return tuple(found)


def all_places(report: EvaluationReport) -> tuple[Place, ...]:
    """Prompts and seeds in the suite's order; a prompt may have fewer seeds than others."""
    rendered = {(video.prompt, video.seed) for video in report.videos}
    places = ((prompt, seed) for prompt in report.prompts for seed in report.seeds)
    return tuple(place for place in places if place in rendered)


def metric_values(
    report: EvaluationReport, names: Sequence[str]
) -> Mapping[tuple[str, str, int], str]:
    """A short line of numbers under each video: (arm, prompt, seed) to text."""
    found: dict[tuple[str, str, int], list[str]] = {}
    for score in report.scores:
        if score.metric in names:
            place = (score.arm, score.prompt, score.seed)
            metric = metrics().get(score.metric)
            short = metric.short if metric else score.metric
            found.setdefault(place, []).append(f"{short} {score.value:.3g}")
    return {place: " · ".join(parts) for place, parts in found.items()}


def _scale(row: Comparison) -> float:
    if row.role == "guard" and row.limit:
        return row.limit
    return row.yardstick or 0.0
