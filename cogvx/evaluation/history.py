"""What is known of all versions of a model: how each was judged, and who was champion when.

Documents only; the page over them is `cogvx.evaluation.history_page`.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from cogvx.evaluation.documents import Comparison, EvaluationReport, Result, Role

Reviewed = Literal["asked", "approved", "rejected", "unanswered"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Measure(_Document):
    """One metric of one judgement: both means, and the effect, turned so that more is better.

    `metric` tells it from others of the judgement, as `Comparison.label` does.
    `limit` is a guard's margin or a ceiling's limit. Numbers are None where nobody kept them.
    """

    metric: str
    unit: str
    role: Role
    result: Result
    reference: float | None
    candidate: float | None
    effect: float | None
    low: float | None = None
    high: float | None = None
    limit: float | None = None


class Judgement(_Document):
    """What an evaluation said of a version.

    `reference` names whom it was compared with, `against` is that version's number, None for the
    bare base. Judgements under different suites cannot be compared.
    """

    verdict: str
    against: int | None
    headline: str = ""
    next_step: str = ""
    suite: str = ""
    rule: str = ""
    stage: str = ""
    look: str = ""
    when: AwareDatetime | None = None
    measures: tuple[Measure, ...] = ()

    @property
    def reference(self) -> str:
        """Whom it was compared with, in words."""
        return "base" if self.against is None else f"version {self.against}"


class Review(_Document):
    """What a person said of a verdict, or that one was asked; `until` is when the asking ends."""

    outcome: Reviewed
    by: str = ""
    why: str = ""
    until: AwareDatetime | None = None


class VersionHistory(_Document):
    """One version; `judgement` is the newest one, `links` are addresses of pages by what they show.

    What is not known is None or empty.
    """

    version: int
    made: AwareDatetime | None = None
    aliases: tuple[str, ...] = ()
    judgement: Judgement | None = None
    review: Review | None = None
    links: dict[str, str] = {}


class ChampionMove(_Document):
    """A decision about the champion: who it was and who it is from then on."""

    seq: int
    when: AwareDatetime
    act: str
    version: int | None
    before: int | None
    after: int | None
    who: str
    why: str
    verdict: str | None = None
    overruled: bool = False


class ModelHistory(_Document):
    """All versions of a model, oldest first, and the decisions about its champion, oldest first."""

    schema_version: Literal[1] = 1
    model: str
    versions: tuple[VersionHistory, ...]
    moves: tuple[ChampionMove, ...] = ()

    @property
    def champion(self) -> int | None:
        """The version that has the alias now."""
        held = [item.version for item in self.versions if "champion" in item.aliases]
        return held[0] if held else None

    @property
    def once_champions(self) -> frozenset[int]:
        """Every version that is or was champion."""
        seen = {move.after for move in self.moves} | {move.before for move in self.moves}
        return frozenset(number for number in (*seen, self.champion) if number is not None)


def judgement_of(
    report: EvaluationReport, *, against: int | None, when: datetime | None = None
) -> Judgement:
    """What the history keeps of a report."""
    verdict = report.verdict
    return Judgement(
        verdict=verdict.outcome,
        against=against,
        headline=verdict.headline,
        next_step=verdict.next_step,
        suite=verdict.suite,
        rule=str(verdict.rule),
        stage=verdict.stage,
        look=str(verdict.look),
        when=when,
        measures=tuple(_measures(verdict.comparisons)),
    )


def _measures(comparisons: Iterable[Comparison]) -> Iterable[Measure]:
    for row in comparisons:
        yield Measure(
            metric=row.label,
            unit=row.unit,
            role=row.role,
            result=row.result,
            reference=row.reference,
            candidate=row.candidate,
            effect=row.effect.mean,
            low=row.effect.low,
            high=row.effect.high,
            limit=row.limit,
        )
