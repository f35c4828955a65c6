"""Which videos a reader sees first: faulty ones, big losses, big wins, some that nobody chose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cogvx.digest import digest
from cogvx.evaluation.documents import Comparison, EvaluationReport
from cogvx.evaluation.integrity import LIFELESS
from cogvx.metrics.registry import metrics

_PER_SECTION = 2
_DOUBTED = 2

Place = tuple[str, int]


@dataclass(frozen=True)
class VideoSection:
    """Prompts and seeds under one heading; a collapsed section opens on a click.

    `changes` are what the section is about, in units of `unit`.
    """

    title: str
    about: str
    places: tuple[Place, ...]
    changes: Mapping[Place, float]
    unit: str
    collapsed: bool = False
    faulty: bool = False


def video_changes(report: EvaluationReport) -> dict[Place, float]:
    """How much each prompt and seed changed, in margins or seed SDs; negative is worse.

    The mean over the video metrics that the verdict rests on: its primaries, or its guards where no
    primary is measured on videos. Departing from a metric without a better side is a loss.
    """
    found: dict[Place, list[float]] = {}
    for row in _deciding(report):
        if scale := _scale(row):
            for place, gain in _gains(report, row).items():
                found.setdefault(place, []).append(gain / scale)
    return {place: sum(gains) / len(gains) for place, gains in found.items()}


def video_sections(report: EvaluationReport) -> tuple[VideoSection, ...]:
    """Every prompt and seed once, the most telling first. Typical ones are drawn by hash."""
    who, changes, faulty = report.verdict.candidate, video_changes(report), faulty_places(report)
    primary = any(row.role == "primary" for row in _deciding(report))
    unit = "SD" if primary else "margins"
    left = [place for place in all_places(report) if place not in faulty]
    sections = [
        VideoSection("Failures", "videos with faults, or none", faulty, changes, unit, faulty=True)
    ]

    def take(title: str, about: str, ranked: Sequence[Place]) -> None:
        chosen = tuple(place for place in ranked if place in left)[:_PER_SECTION]
        left[:] = [place for place in left if place not in chosen]
        sections.append(VideoSection(title, about, chosen, changes, unit))

    for row in _doubted(report):
        scale = _scale(row) or 1.0
        gains = {place: gain / scale for place, gain in _gains(report, row).items()}
        lost = sorted((place for place in gains if gains[place] < 0), key=gains.__getitem__)
        title = f"Most {'lost' if row.direction else 'changed'} in {row.metric}"
        take(title, f"a guard that is {row.result}", lost)
        sections[-1] = replace(sections[-1], changes=gains, unit="margins")
    ranked = sorted(changes, key=lambda place: (changes[place], place))
    losses = [place for place in ranked if changes[place] < 0]
    wins = [place for place in reversed(ranked) if changes[place] > 0]
    take("Biggest losses", f"where {who} lost most", losses)
    take("Biggest wins", "where it gained most", wins)
    typical = sorted(left, key=lambda place: digest([report.suite, *place]))
    take("Typical", "drawn by hash, not picked", typical)
    more = f"{len(left)} more"
    rest = VideoSection("All others", more, tuple(left), changes, unit, collapsed=True)
    return tuple(section for section in (*sections, rest) if section.places)


def faulty_places(report: EvaluationReport) -> tuple[Place, ...]:
    """Where a fault counts against an arm, or an arm has no video although it has others.

    As in `cogvx.evaluation.integrity`: what is flat or frozen in the reference is told and counts,
    and is no fault of a challenger that draws it so as well, nor one of a base beside a champion.
    """
    faults = {(video.arm, video.prompt, video.seed): set(video.faults) for video in report.videos}
    arms = dict.fromkeys(video.arm for video in report.videos)
    base = report.arm("base")
    verdict, found = report.verdict, []
    for place in all_places(report):
        old = faults.get((verdict.reference, *place), set())
        new = faults.get((verdict.candidate, *place), set())
        missing = any((arm, *place) not in faults for arm in arms)
        bare = faults.get((base.name, *place), set()) if base else set()
        if missing or (old | bare) - LIFELESS or new - (old & LIFELESS):
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


def _on_videos(report: EvaluationReport) -> list[Comparison]:
    measured = {score.metric for score in report.scores}
    return [row for row in report.verdict.comparisons if row.metric in measured]


def _deciding(report: EvaluationReport) -> list[Comparison]:
    rows = _on_videos(report)
    primaries = [row for row in rows if row.role == "primary"]
    return primaries or [row for row in rows if row.role == "guard"]


def _doubted(report: EvaluationReport) -> list[Comparison]:
    """Guards that stand in the way, the first of them; a person looks at these videos first."""
    rows = [row for row in _on_videos(report) if row.role == "guard"]
    return [row for row in rows if row.result in ("worse", "undecided")][:_DOUBTED]


def _gains(report: EvaluationReport, row: Comparison) -> dict[Place, float]:
    """What each prompt and seed gained by a metric, in its unit; any change of some is a loss."""
    verdict = report.verdict
    old, new = (
        {
            (score.prompt, score.seed): score.value
            for score in report.scores
            if score.arm == arm and score.metric == row.metric and report.is_over(row, score.prompt)
        }
        for arm in (verdict.reference, verdict.candidate)
    )
    differences = {place: new[place] - value for place, value in old.items() if place in new}
    if row.direction:
        return {place: row.direction * found for place, found in differences.items()}
    return {place: -abs(found) for place, found in differences.items()}


def _scale(row: Comparison) -> float:
    if row.role == "guard" and row.limit:
        return row.limit
    return row.yardstick or 0.0
