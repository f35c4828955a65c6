"""The history of a model: its page tells every version, and nothing that it shows leaves it."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from cogvx.evaluation.history import (
    ChampionMove,
    Judgement,
    Measure,
    ModelHistory,
    Review,
    VersionHistory,
    judgement_of,
)
from cogvx.evaluation.history_charts import HEIGHT, Scale, metric_histories
from cogvx.evaluation.history_page import history_page
from cogvx.evaluation.judge import judge
from tests.evaluation.builders import arm_of, suite_of

BEGAN = datetime(2026, 1, 4, 3, tzinfo=UTC)


def measure(
    name: str, effect: float, *, role: str = "primary", limit: float | None = None
) -> Measure:
    return Measure.model_validate(
        {
            "metric": name,
            "unit": "mse of v",
            "role": role,
            "result": "better" if effect > 0 else "undecided",
            "reference": 0.5,
            "candidate": 0.5 - effect,
            "effect": effect,
            "low": effect - 0.02,
            "high": effect + 0.02,
            "limit": limit,
        }
    )


def version(number: int, verdict: str | None = "HOLD", **more: object) -> VersionHistory:
    judgement = None
    if verdict is not None:
        measures = (
            measure("heldout_loss", number / 100),
            measure("motion", -0.01, role="guard", limit=0.05),
        )
        judgement = Judgement(verdict=verdict, against=None, suite="a" * 64, measures=measures)
    document = {"version": number, "made": BEGAN + timedelta(days=number), "judgement": judgement}
    return VersionHistory.model_validate({**document, **more})


def history_of_versions(count: int) -> ModelHistory:
    return ModelHistory(
        model="ink", versions=tuple(version(number) for number in range(1, count + 1))
    )


def move(seq: int, before: int | None, after: int, act: str = "promoted") -> ChampionMove:
    return ChampionMove(
        seq=seq,
        when=BEGAN + timedelta(days=seq, hours=12),
        act=act,
        version=after,
        before=before,
        after=after,
        who="Ann",
        why="it <b>flickers</b> & more",
        overruled=seq == 2,
    )


@pytest.fixture(scope="module")
def history() -> ModelHistory:
    return ModelHistory(
        model="ink",
        versions=(
            version(1, "PROMOTE", aliases=("champion",)),
            version(2, "HOLD"),
            version(3, "REJECT"),
            version(4, None),
            version(5, "PROMOTE", review=Review(outcome="rejected", by="Ben", why="too calm")),
        ),
        moves=(move(1, None, 1), move(2, 1, 2), move(3, 2, 1, "rolled back")),
    )


class _Page(HTMLParser):
    """Every element that opens, with its attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.elements if name == tag)


def test_every_version_decision_and_review_is_told_in_words(history: ModelHistory) -> None:
    page = _Page(history_page(history))
    rows = [row for row in page.all("tr") if "data-x" in row]
    assert [row["id"] for row in rows] == ["v5", "v4", "v3", "v2", "v1"]
    labels = [row["data-label"] or "" for row in rows]
    assert "rejected by Ben: too calm" in labels[0]
    assert "not judged" in labels[1]
    assert "promoted against the verdict by Ann" in labels[3]
    assert "rolled back by Ann: it <b>flickers</b> & more" in labels[3]
    assert "champion; heldout_loss +0.01 (-0.01 to +0.03)" in labels[4]
    assert "was champion" in labels[3]
    assert "<b>flickers</b>" in page.text  # as text, not as an element


def test_a_page_asks_for_nothing_and_says_so(history: ModelHistory) -> None:
    text = history_page(history)
    page = _Page(text)
    (policy,) = (m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert not [a for _, a in page.elements if "src" in a]
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|localStorage", text)
    assert history_page(history) == text


def test_every_picture_has_words_and_every_link_a_page(history: ModelHistory) -> None:
    links = {"run": "http://mlflow/#/runs/1"}
    shown = history.model_copy(update={"versions": (version(1, links=links),)})
    page = _Page(history_page(shown))
    plots = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert plots
    assert all(svg["aria-label"] for svg in plots)
    (link,) = (a for a in page.all("a") if "target" in a)
    assert (link["href"], link["rel"]) == ("http://mlflow/#/runs/1", "noopener noreferrer")


@pytest.mark.parametrize("count", [0, 1, 200])
def test_any_number_of_versions_fits_one_small_page(count: int) -> None:
    text = history_page(history_of_versions(count))
    assert len(text) < 2 * 2**20
    assert f"{count} version" in text
    assert text.count("data-x=") == count


def test_marks_stand_where_their_numbers_say(history: ModelHistory) -> None:
    loss, motion = metric_histories(history)
    assert (loss.metric, loss.role, motion.role) == ("heldout_loss", "primary", "guard")
    assert loss.effects is not None
    assert motion.effects is not None
    assert [mark.x for mark in loss.effects.marks] == [10, 30, 50, 90]  # version 4 has none
    places = [mark.y for mark in loss.effects.marks]
    assert places == sorted(places, reverse=True)  # more is better, and higher
    zero = loss.effects.zero
    assert zero is not None
    for mark in loss.effects.marks:
        assert mark.low is not None
        assert mark.high is not None
        assert mark.high < mark.y < mark.low
        assert mark.y < zero
    # the margin of the guard is below the line, and where it begins the page is shaded
    (zone,) = {mark.zone for mark in motion.effects.marks}
    assert zone is not None
    assert motion.effects.zero is not None
    assert zone > motion.effects.zero
    assert loss.values is not None
    assert [mark.champion for mark in loss.values.marks] == [True, True, False, False]


def test_one_wreck_does_not_flatten_the_rest() -> None:
    values = [1.0, 1.1, 0.9, 1.05, 0.95, 1.02, 1.08, 1e6]
    scale = Scale.of(values, beside=[-1e6], always=[0.5])
    assert scale.high < 2
    assert scale.holds(0.5)
    assert not scale.holds(1e6)
    assert 0 < scale.at(1e6) < scale.at(1.1) < scale.at(0.9) < HEIGHT
    few = Scale.of([1.0, 1e6])
    assert few.holds(1e6)
    assert Scale.of([]).at(0.0) == HEIGHT / 2


def test_a_line_stands_where_the_suite_changed() -> None:
    versions = [version(number) for number in range(1, 5)]
    other = versions[2].judgement
    assert other is not None
    changed = [
        item.model_copy(update={"judgement": other.model_copy(update={"suite": "b" * 64})})
        for item in versions[2:]
    ]
    text = history_page(ModelHistory(model="ink", versions=(*versions[:2], *changed)))
    assert 'class="break" x1="50.0%"' in text
    assert "another suite" in text


def test_what_a_report_says_is_what_the_history_keeps() -> None:
    suite = suite_of()
    report = judge(
        suite,
        model="toy",
        candidate=arm_of(suite, "challenger v2", losses=(0.9, 1.1, 1.3, 1.0)),
        reference=arm_of(suite, "champion v1"),
        provenance={},
    )
    kept = judgement_of(report, against=1)
    assert (kept.verdict, kept.reference, kept.suite) == ("PROMOTE", "version 1", suite.digest)
    told = {row.label: row for row in report.verdict.comparisons}
    assert [each.metric for each in kept.measures] == list(told)
    for each in kept.measures:
        row = told[each.metric]
        assert (each.effect, each.low, each.high) == (
            row.effect.mean,
            row.effect.low,
            row.effect.high,
        )
        assert (each.candidate, each.reference) == (row.candidate, row.reference)
