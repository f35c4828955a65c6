"""Generated videos beside the training clips that they resemble most."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from cogvx.evaluation.documents import ArmNeighbour, Comparison, EvaluationReport
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


def likenesses(
    report: EvaluationReport, videos: Videos, stills: Stills, *, room: float = inf
) -> tuple[Likeness, ...]:
    """The candidate's nearest pairs for each metric of memorisation, most alike first.

    All over the limit are shown, and at least six; in pictures while there is `room`, in bytes.

    Raises:
        DataError: A file holds no video or no picture.
    """
    mine: dict[str, list[ArmNeighbour]] = {}
    for neighbour in report.neighbours:
        if neighbour.arm == report.verdict.candidate:
            mine.setdefault(neighbour.metric, []).append(neighbour)
    alike = []
    for metric, found in mine.items():
        one = _likeness(report, metric, sorted(found, key=_most_alike), videos, stills)
        pairs = []
        for pair in one.pairs:
            pictures = [each for each in (pair.generated, pair.nearest) if each is not None]
            room -= sum(len(each.picture) for each in pictures)
            pairs.append(pair if room >= 0 else replace(pair, generated=None, nearest=None))
        alike.append(replace(one, pairs=tuple(pairs)))
    return tuple(alike)


def _likeness(
    report: EvaluationReport,
    metric: str,
    found: list[ArmNeighbour],
    videos: Videos,
    stills: Stills,
) -> Likeness:
    row = _ceiling(report, metric)
    limit = None if row is None else row.limit

    def is_over(one: ArmNeighbour) -> bool:
        if row is None or row.limit is None:
            return False
        return one.similarity > row.limit and report.is_over(row, one.prompt)

    over = sum(map(is_over, found))
    found = sorted(found, key=lambda one: not is_over(one))
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
        broken=row is not None and row.result == "over limit",
        pairs=tuple(
            Pair(
                title=f"{one.prompt}, seed {one.seed}",
                prompt=report.prompts.get(one.prompt, ""),
                similarity=f"{one.similarity:.3f}",
                over=is_over(one),
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


def _ceiling(report: EvaluationReport, metric: str) -> Comparison | None:
    rows = (row for row in report.verdict.comparisons if row.metric == metric)
    return next((row for row in rows if row.role == "ceiling"), None)


def _of(report: EvaluationReport, metric: str, arm: str) -> list[float]:
    return [one.similarity for one in report.neighbours if (one.arm, one.metric) == (arm, metric)]
