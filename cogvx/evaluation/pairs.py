"""Generated videos beside the training clips that they resemble most."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cogvx.evaluation.documents import ArmNeighbour, EvaluationReport
from cogvx.evaluation.gallery import Videos
from cogvx.evaluation.pictures import Still, page_still, page_strip

_SHOWN = 6

Stills = Mapping[str, Path]


@dataclass(frozen=True)
class Pair:
    """A generated video's strip and its neighbour's picture; either may be absent."""

    title: str
    prompt: str
    similarity: str
    over: bool
    generated: Still | None
    clip: str
    nearest: Still | None


@dataclass(frozen=True)
class Likeness:
    """The nearest pairs by one metric, `about` in words, and the rest as lines of a table."""

    metric: str
    about: str
    broken: bool
    pairs: tuple[Pair, ...]
    rest: tuple[tuple[str, ...], ...]


def likenesses(report: EvaluationReport, videos: Videos, stills: Stills) -> tuple[Likeness, ...]:
    """The candidate's nearest pairs for each metric of memorisation, most alike first.

    All over the limit are in pictures, and at least six.

    Raises:
        DataError: A file holds no video or no picture.
    """
    mine: dict[str, list[ArmNeighbour]] = {}
    for neighbour in report.neighbours:
        if neighbour.arm == report.verdict.candidate:
            mine.setdefault(neighbour.metric, []).append(neighbour)
    return tuple(
        _likeness(report, metric, sorted(found, key=_most_alike), videos, stills)
        for metric, found in mine.items()
    )


def _likeness(
    report: EvaluationReport,
    metric: str,
    found: list[ArmNeighbour],
    videos: Videos,
    stills: Stills,
) -> Likeness:
    limit = _limit(report, metric)
    over = 0 if limit is None else sum(one.similarity > limit for one in found)
    shown = found[: max(over, _SHOWN)]
    told = "no limit known" if limit is None else f"limit {limit:.3f}, {over} of {len(found)} over"
    others = [
        f"highest of {arm.name} {max(values):.3f}"
        for arm in report.arms
        if arm.name != report.verdict.candidate and (values := _of(report, metric, arm.name))
    ]
    return Likeness(
        metric=metric,
        about="; ".join([told, *others]),
        broken=over > 0,
        pairs=tuple(
            Pair(
                title=f"{one.prompt}, seed {one.seed}",
                prompt=report.prompts.get(one.prompt, ""),
                similarity=f"{one.similarity:.3f}",
                over=limit is not None and one.similarity > limit,
                generated=_strip(videos.get((one.arm, one.prompt, one.seed))),
                clip=one.clip,
                nearest=page_still(stills[one.clip]) if one.clip in stills else None,
            )
            for one in shown
        ),
        rest=tuple(
            (one.prompt, str(one.seed), one.clip, f"{one.similarity:.3f}")
            for one in found[len(shown) :]
        ),
    )


def _strip(path: Path | None) -> Still | None:
    return None if path is None else page_strip(path)


def _most_alike(one: ArmNeighbour) -> tuple[float, str, int]:
    return -one.similarity, one.prompt, one.seed


def _limit(report: EvaluationReport, metric: str) -> float | None:
    rows = (row for row in report.verdict.comparisons if row.metric == metric)
    return next((row.limit for row in rows if row.role == "ceiling"), None)


def _of(report: EvaluationReport, metric: str, arm: str) -> list[float]:
    return [one.similarity for one in report.neighbours if (one.arm, one.metric) == (arm, metric)]
