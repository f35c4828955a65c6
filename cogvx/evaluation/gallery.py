"""The videos of a report, side by side in rows, as many as the page has room for."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cogvx.evaluation import ordering
from cogvx.evaluation.documents import ArmSummary, EvaluationReport
from cogvx.evaluation.ordering import Place, VideoSection
from cogvx.evaluation.pictures import Clip, page_clip

_CAPTION_METRICS = 3
# Decoding and encoding leave the interpreter's lock; more at a time would hold many whole videos.
_WORKERS, _AT_A_TIME = 4, 8

Videos = Mapping[tuple[str, str, int], Path]


@dataclass(frozen=True)
class Figure:
    """One arm's video in a row; `clip` is None where there is none or the page is full."""

    arm: ArmSummary
    numbers: str
    clip: Clip | None
    absent: str
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One prompt and seed, side by side in all arms. `tone` is good, bad or nothing."""

    prompt_id: str
    prompt: str
    seed: int
    change: str
    tone: str
    figures: tuple[Figure, ...]

    @property
    def votable(self) -> bool:
        """Whether there are two sides to choose from."""
        sides = [figure for figure in self.figures if figure.arm.role != "base"]
        return len(sides) == 2 and all(figure.clip for figure in sides)

    @property
    def clips(self) -> tuple[Clip, ...]:
        """What can be played."""
        return tuple(figure.clip for figure in self.figures if figure.clip)


@dataclass(frozen=True)
class Shelf:
    """The rows under one heading."""

    section: VideoSection
    rows: tuple[Row, ...]


def fill_shelves(report: EvaluationReport, videos: Videos, room: int) -> tuple[Shelf, ...]:
    """Sections in the page's order; what no longer fits into `room` bytes is named instead.

    Raises:
        DataError: A file holds no video.
    """
    sections = ordering.video_sections(report)
    notes = _Notes(report)
    section_of = {place: section for section in sections for place in section.places}
    places = list(section_of)
    rows: dict[Place, Row] = {}
    for place, found in _page_clips(report, videos, places, room):
        figures = []
        for arm in report.arms:
            clip = found.get(arm.name)
            if clip is not None and clip.size > room:
                clip, room = None, 0
            room -= clip.size if clip else 0
            figures.append(notes.figure(arm, place, clip, known=(arm.name, *place) in videos))
        rows[place] = notes.row(place, section_of[place], tuple(figures))
    return tuple(
        Shelf(section, tuple(rows[place] for place in section.places)) for section in sections
    )


class _Notes:
    """What stands around the videos: their numbers, their faults, and what changed."""

    def __init__(self, report: EvaluationReport) -> None:
        self._report = report
        measured = {score.metric for score in report.scores}
        shown = [row.metric for row in report.verdict.comparisons if row.metric in measured]
        self._numbers = ordering.metric_values(report, shown[:_CAPTION_METRICS])
        self._faults = {
            (video.arm, video.prompt, video.seed): video.faults for video in report.videos
        }

    def figure(self, arm: ArmSummary, place: Place, clip: Clip | None, *, known: bool) -> Figure:
        key = (arm.name, *place)
        made = key in self._faults
        return Figure(
            arm=arm,
            numbers=self._numbers.get(key, ""),
            clip=clip,
            absent="no room left on this page" if known else "not here" if made else "no video",
            faults=self._faults.get(key, ()),
        )

    def row(self, place: Place, section: VideoSection, figures: tuple[Figure, ...]) -> Row:
        prompt, seed = place
        change, tone = "", ""
        if place in section.changes:
            found = section.changes[place]
            change = f"{found:+.2f} {section.unit}".replace("-", "−")
            tone = "bad" if found < 0 else "good" if found > 0 else ""
        return Row(prompt, self._report.prompts[prompt], seed, change, tone, figures)


def _page_clips(
    report: EvaluationReport, videos: Videos, places: Sequence[Place], room: int
) -> Iterator[tuple[Place, dict[str, Clip]]]:
    """The clips of each place by arm, in order; none once the page is full."""
    arms = [arm.name for arm in report.arms]
    with ThreadPoolExecutor(_WORKERS) as pool:
        for first in range(0, len(places), _AT_A_TIME):
            some = places[first : first + _AT_A_TIME]
            keys = [(arm, *place) for place in some for arm in arms if (arm, *place) in videos]
            made = dict(zip(keys, pool.map(page_clip, [videos[key] for key in keys]), strict=True))
            made = made if room > 0 else {}
            for place in some:
                found = {arm: made[arm, *place] for arm in arms if (arm, *place) in made}
                room -= sum(clip.size for clip in found.values())
                yield place, found
