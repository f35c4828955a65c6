"""One page over all versions of a model: every metric over time, champions, and who decided what.

It needs nothing else and forbids itself any request, as the report does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cogvx.evaluation.history import ChampionMove, ModelHistory, VersionHistory
from cogvx.evaluation.history_charts import (
    HEIGHT,
    effect_text,
    metric_histories,
    place_of,
    tone_of,
)
from cogvx.pages.template import render_template

_MOST_LABELS = 12
# Above so many versions marks are drawn smaller.
_FEW, _SOME = 40, 100
_SHOWN_AT_ONCE = 20
_SHAPES = {"PROMOTE": "up", "HOLD": "dot", "REJECT": "down", "INVALID": "cross"}
_TONES = {"PROMOTE": "good", "HOLD": "open", "REJECT": "bad"}


@dataclass(frozen=True)
class VersionRow:
    """A version in the strip and in the table."""

    item: VersionHistory
    x: float
    shape: str
    tone: str
    verdict: str
    champion: str
    effects: tuple[tuple[str, str, str], ...]
    remarks: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class MoveMark:
    """A decision about the champion in the strip."""

    x: float
    sign: str
    label: str


@dataclass(frozen=True)
class Reign:
    """How long a version was champion, across the strip."""

    start: float
    width: float
    version: int


def history_page(history: ModelHistory) -> str:
    """The page as text; the same history gives the same bytes."""
    rows = [_row(history, position) for position in range(len(history.versions))]
    told = metric_histories(history)
    return render_template(
        "cogvx.evaluation",
        "history.html.jinja",
        history=history,
        rows=rows,
        newest=list(reversed(rows)),
        shown=_SHOWN_AT_ONCE,
        metrics=[item for item in told if item.role != "info"],
        others=[item for item in told if item.role == "info"],
        moves=list(reversed(history.moves)),
        move_marks=_move_marks(history),
        reigns=_reigns(history),
        breaks=_suite_changes(history),
        labels=_axis(rows),
        counts=_counts(rows),
        height=HEIGHT,
        slot=100.0 / max(len(rows), 1),
        radius=5 if len(rows) <= _FEW else 3.5 if len(rows) <= _SOME else 2.5,
        size=1.0 if len(rows) <= _FEW else 0.7 if len(rows) <= _SOME else 0.45,
    )


def _row(history: ModelHistory, position: int) -> VersionRow:
    item = history.versions[position]
    judged = item.judgement
    verdict = judged.verdict if judged else "not judged"
    measures = judged.measures if judged else ()
    effects = tuple(
        (each.metric, effect_text(each), tone_of(each))
        for each in measures
        if each.role == "primary"
    )
    champion = ""
    if item.version == history.champion:
        champion = "champion"
    elif item.version in history.once_champions:
        champion = "was champion"
    remarks = _remarks(item, history.moves)
    parts = [f"version {item.version}", verdict]
    if judged:
        parts[-1] += f" against {judged.reference}"
    parts += [champion, *(f"{name} {text}" for name, text, _ in effects), *remarks]
    return VersionRow(
        item=item,
        x=place_of(position, len(history.versions)),
        shape=_SHAPES.get(verdict, "ring"),
        tone=_TONES.get(verdict, "plain"),
        verdict=verdict,
        champion=champion,
        effects=effects,
        remarks=remarks,
        label="; ".join(part for part in parts if part),
    )


def _remarks(item: VersionHistory, moves: Sequence[ChampionMove]) -> tuple[str, ...]:
    """What a reader must know beside the verdict: broken guards, overrides, reviews, rollbacks."""
    said = [
        f"{each.metric} {each.result}"
        for each in (item.judgement.measures if item.judgement else ())
        if each.role in ("guard", "ceiling") and tone_of(each) in ("bad", "open")
    ]
    review = item.review
    if review is not None and review.outcome in ("approved", "rejected"):
        said.append(f"{review.outcome} by {review.by}: {review.why}")
    elif review is not None and review.outcome == "unanswered":
        said.append("nobody answered")
    for move in moves:
        if move.overruled and move.after == item.version:
            said.append(f"promoted against the verdict by {move.who}")
        if move.act == "rolled back" and move.before == item.version:
            said.append(f"rolled back by {move.who}: {move.why}")
    return tuple(dict.fromkeys(said))


def _position(history: ModelHistory, move: ChampionMove) -> float:
    """Between which versions a decision was made, counted from zero."""
    return sum(item.made is None or item.made <= move.when for item in history.versions) - 0.5


def _move_marks(history: ModelHistory) -> list[MoveMark]:
    marks, count = [], len(history.versions)
    for move in history.moves:
        sign = "↩" if move.act == "rolled back" else "!" if move.overruled else ""
        if sign:
            what = f"{move.act}: champion {move.before} → {move.after}, by {move.who}: {move.why}"
            marks.append(MoveMark(place_of(_position(history, move), count), sign, what))
    return marks


def _reigns(history: ModelHistory) -> list[Reign]:
    count, reigns = len(history.versions), []
    ends = [*(_position(history, move) for move in history.moves[1:]), count - 0.5]
    for move, end in zip(history.moves, ends, strict=False):
        start = place_of(_position(history, move), count)
        width = place_of(end, count) - start
        if move.after is not None and width > 0:
            reigns.append(Reign(start, round(width, 3), move.after))
    return reigns


def _suite_changes(history: ModelHistory) -> list[float]:
    """Where numbers on either side were measured under different suites."""
    places, last = [], ""
    for position, item in enumerate(history.versions):
        suite = item.judgement.suite if item.judgement else ""
        if suite and last and suite != last:
            places.append(place_of(position - 0.5, len(history.versions)))
        last = suite or last
    return places


def _axis(rows: Sequence[VersionRow]) -> list[tuple[float, str]]:
    step = -(-len(rows) // _MOST_LABELS) if rows else 1
    return [(row.x, f"v{row.item.version}") for row in rows[::step]]


def _counts(rows: Sequence[VersionRow]) -> list[tuple[str, int]]:
    verdicts = [row.verdict for row in rows]
    return [(name, verdicts.count(name)) for name in dict.fromkeys([*_SHAPES, *verdicts])]
