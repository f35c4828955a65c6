"""The page holds everything it shows, asks for nothing, and says the verdict first."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from cogvx.evaluation import report as report_module
from cogvx.evaluation.charts import gain_chart
from cogvx.evaluation.documents import ArmNeighbour, Change, EvaluationReport, SweepPoint
from cogvx.evaluation.judge import judge, report_of
from cogvx.evaluation.ordering import (
    all_places,
    faulty_places,
    video_changes,
    video_sections,
)
from cogvx.evaluation.pairs import likenesses
from cogvx.evaluation.report import render_page, write_report
from cogvx.evaluation.whiskers import metric_table
from cogvx.files import read_document
from cogvx.metrics.pixels import FLAT
from cogvx.mp4 import read_mp4, write_mp4
from tests.evaluation.builders import arm_of, suite_document, suite_of

EVIL = '<script>alert("x")</script> & <img src=http://example.com/x.png>'
BETTER = (0.8, 0.9, 1.1, 0.9)


@pytest.fixture(scope="module")
def suite():
    prompts = suite_document()["prompts"]
    prompts[0]["prompt"] = EVIL
    gate = {
        "primaries": ["heldout_loss"],
        "guards": [{"metric": "motion_magnitude", "margin": 1.0}],
    }
    return suite_of(prompts=prompts, gate=gate)


@pytest.fixture(scope="module")
def judged(suite):
    """Three arms; the challenger moves more on one prompt and less on another."""
    arms = [arm_of(suite, "base"), arm_of(suite, "champion v1"), arm_of(suite, "challenger v2")]
    moved = {("circle", 1): -0.6, ("square", 2): 0.7}
    changed = tuple(
        video.model_copy(
            update={
                "values": video.values
                | {
                    "motion_magnitude": video.values["motion_magnitude"]
                    + moved.get((video.prompt, video.seed), 0.0)
                }
            }
        )
        for video in arms[2].videos
    )
    better = arm_of(suite, "challenger v2", losses=BETTER).heldout
    challenger = arms[2].model_copy(update={"videos": changed, "heldout": better})
    return judge(
        suite,
        model="toy",
        candidate=challenger,
        reference=arms[1],
        base=arms[0],
        provenance={"run": "0" * 64, "recipe": 'name = "x"\nrank = 64\n', "note": EVIL},
    )


@pytest.fixture(scope="module")
def videos(judged, tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    found = {}
    for number, arm in enumerate(judged.arms):
        for prompt in judged.prompts:
            for seed in judged.seeds:
                path = folder / f"{number}-{prompt}-{seed}.mp4"
                rng = np.random.default_rng([number, seed])
                write_mp4(path, rng.integers(0, 255, (5, 32, 32, 3)).astype(np.uint8), fps=8)
                found[arm.name, prompt, seed] = path
    return found


@pytest.fixture(scope="module")
def written(judged, videos, tmp_path_factory):
    return write_report(judged, videos, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(written):
    return written.html.read_text()


def neighbour(clip, similarity, number=0):
    return ArmNeighbour(
        arm="challenger v2",
        prompt=("circle", "square", "ring", "cross", "diamond")[number // 2],
        seed=1 + number % 2,
        metric="memorisation_luma",
        clip=clip,
        similarity=similarity,
    )


class Attributes(HTMLParser):
    """Every attribute of every element, as a browser would read them."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found += [(tag, name, value or "") for name, value in attrs]


def test_the_page_asks_for_nothing(page):
    attributes = Attributes(page).found
    fetching = {"src", "href", "action", "poster", "data", "srcset", "background", "xlink:href"}
    sources = [value for _, name, value in attributes if name in fetching]
    assert sources
    assert all(value.startswith("data:") for value in sources)
    assert not any(tag in {"link", "iframe", "object", "embed"} for tag, _, _ in attributes)
    assert "@import" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_a_prompt_cannot_become_markup(page):
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(&#34;x&#34;)" in page
    assert "<img src=http" not in page


def test_the_page_says_the_verdict_and_every_reason(page, judged):
    verdict = judged.verdict
    assert verdict.outcome == "PROMOTE"
    text = page.replace("&gt;", ">").replace("&#39;", "'")
    assert f'<h1><span class="outcome">{verdict.outcome}</span>' in text
    for sentence in (verdict.headline, verdict.next_step, *verdict.reasons):
        assert sentence in text


def test_every_video_is_in_the_page_once_and_plays(page, videos, tmp_path):
    found = re.findall(r'<video [^>]*data-src="data:video/mp4;base64,([^"]+)"', page)
    assert len(found) == len(videos)
    path = tmp_path / "first.mp4"
    path.write_bytes(base64.b64decode(found[0]))
    assert read_mp4(path).rgb_fhwc.shape == (5, 32, 32, 3)
    assert page.count('class="strip" alt="Six frames of') == len(videos)


def test_everything_shown_can_be_read_aloud(page):
    assert page.count("<video ") == len(re.findall(r'<video [^>]*aria-label="[^"]+"', page))
    outermost = re.findall(r"<svg(?! x=| aria-hidden| class=.ticks)", page)
    assert len(outermost) == page.count('role="img" aria-label=')
    assert '<html lang="en">' in page
    assert all(name in page for name in ("one frame back", "one frame on", "aria-pressed"))


def test_the_biggest_losses_come_first(judged):
    sections = video_sections(judged)
    assert [section.title for section in sections] == [
        "Biggest losses",
        "Biggest wins",
        "Typical",
        "All others",
    ]
    assert sections[0].places[0] == ("circle", 1)
    assert sections[1].places[0] == ("square", 2)
    assert sections[3].collapsed
    places = [place for section in sections for place in section.places]
    assert len(places) == len(set(places)) == len(judged.prompts) * len(judged.seeds)
    assert video_changes(judged)["circle", 1] == pytest.approx(-0.6, abs=0.01)


def test_prompts_with_fewer_seeds_are_judged_and_shown():
    prompts = suite_document()["prompts"]
    prompts[1]["seeds"] = [2]
    uneven = suite_of(prompts=prompts)
    report = judge(
        uneven,
        model="toy",
        candidate=arm_of(uneven, "challenger", losses=BETTER),
        reference=arm_of(uneven),
        provenance={},
    )
    assert report.verdict.outcome == "PROMOTE"
    assert all_places(report) == tuple((prompt.id, seed) for prompt, seed in uneven.shots)


def test_a_large_video_is_shown_small(suite, tmp_path):
    report = judge(
        suite,
        model="toy",
        candidate=arm_of(suite, "challenger"),
        reference=arm_of(suite),
        provenance={},
    )
    path = tmp_path / "large.mp4"
    rgb_fhwc = np.zeros((3, 480, 720, 3), np.uint8)
    rgb_fhwc[:, 100:200] = 200
    write_mp4(path, rgb_fhwc, fps=8)
    page = render_page(report, {("base", "circle", 1): path})
    (data,) = re.findall(r'src="data:video/mp4;base64,([^"]+)"', page)
    small = tmp_path / "small.mp4"
    small.write_bytes(base64.b64decode(data))
    assert read_mp4(small).rgb_fhwc.shape == (3, 240, 360, 3)
    assert "not here" in page


def test_a_full_page_names_what_it_leaves_out(judged, videos, monkeypatch):
    bare = len(render_page(judged, {}).encode())
    limit = bare + report_module._ROOM_FOR_TAGS * len(videos) + 60_000
    monkeypatch.setattr(report_module, "MAX_PAGE_BYTES", limit)
    page = render_page(judged, videos)
    assert len(page.encode()) < limit
    assert "no room left on this page" in page
    assert "<video " in page


def test_an_invalid_evaluation_still_has_a_page(suite, tmp_path):
    broken = arm_of(suite, "challenger").model_copy(update={"videos": ()})
    report = judge(suite, model="toy", candidate=broken, reference=arm_of(suite), provenance={})
    page = write_report(report, {}, tmp_path).html.read_text()
    assert '<span class="outcome">INVALID</span>' in page
    assert "has no video of prompt circle, seed 1" in page


def test_the_same_evaluation_gives_the_same_bytes(judged, videos, written, tmp_path):
    again = write_report(judged, videos, tmp_path)
    for one, two in (
        (written.html, again.html),
        (written.json, again.json),
        (written.contact_sheet, again.contact_sheet),
    ):
        assert one.read_bytes() == two.read_bytes()


def test_nothing_that_others_wrote_becomes_markup(judged, tmp_path):
    """Settings, clips, provenance and faults are told by people and files."""
    told = judged.model_copy(
        update={
            "model": EVIL,
            "changes": (Change(setting=EVIL, reference=EVIL, candidate=EVIL),),
            "sweep": (SweepPoint(weight=1.0, metric=EVIL, value=1.0),),
            "neighbours": (neighbour(EVIL, 0.9),),
            "videos": tuple(v.model_copy(update={"faults": (EVIL,)}) for v in judged.videos),
            "verdict": judged.verdict.model_copy(update={"headline": EVIL, "reasons": (EVIL,)}),
        }
    )
    page = render_page(told, {})
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert page.count("&lt;script&gt;alert") >= 8


def test_what_is_missing_leaves_no_empty_box(suite, judged):
    """Stopped by the screen: held-out losses alone, and no arm but two."""
    bare = [arm_of(suite, name).model_copy(update={"videos": ()}) for name in ("base", "new")]
    verdict = judged.verdict.model_copy(
        update={
            "reference": "base",
            "candidate": "new",
            "stage": "screen",
            "outcome": "REJECT",
            "comparisons": judged.verdict.comparisons[:1],
        }
    )
    report = report_of(
        suite, verdict, model="toy", candidate=bare[1], reference=bare[0], provenance={}
    )
    page = render_page(report, {})
    assert "stopped by the screen" in page
    for absent in ("<video", "data-act", "Nearest training", "Strength", "set differently"):
        assert absent not in page.partition("</style>")[2].partition("<script>")[0]
    assert "Held-out loss by timestep" in page


def test_videos_with_faults_come_first(judged, videos):
    black = ("square", 2)
    told = judged.model_copy(
        update={
            "videos": tuple(
                video.model_copy(update={"faults": ("is black",)})
                if (video.arm, video.prompt, video.seed) == ("challenger v2", *black)
                else video
                for video in judged.videos
                if (video.arm, video.prompt, video.seed) != ("champion v1", "ring", 1)
            )
        }
    )
    first = video_sections(told)[0]
    assert first.faulty
    assert first.places == (black, ("ring", 1))
    page = render_page(told, videos)
    assert page.index("What went wrong") < page.index("Failures") < page.index("Biggest losses")
    assert "is black</p>" in page


def test_what_the_reference_draws_as_badly_is_no_failure(judged):
    flat = judged.model_copy(
        update={
            "videos": tuple(
                video.model_copy(update={"faults": (FLAT,)}) if video.seed == 1 else video
                for video in judged.videos
            )
        }
    )
    assert faulty_places(flat) == ()


def test_a_guard_in_doubt_shows_its_worst_videos_before_all_others(judged):
    rows = tuple(
        row.model_copy(update={"result": "undecided"}) if row.role == "guard" else row
        for row in judged.verdict.comparisons
    )
    verdict = judged.verdict.model_copy(update={"comparisons": rows})
    first = video_sections(judged.model_copy(update={"verdict": verdict}))[0]
    assert first.title == "Most lost in motion_magnitude"
    assert first.places[0] == ("circle", 1)


def test_likenesses_over_the_limit_are_marked_and_never_folded_away(judged, videos, tmp_path):
    still = tmp_path / "clip.png"
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(still)
    found = tuple(neighbour("clip-1", 0.5 + number / 100, number) for number in range(8))
    ceiling = judged.verdict.comparisons[-1].model_copy(
        update={
            "metric": "memorisation_luma",
            "role": "ceiling",
            "limit": 0.505,
            "result": "over limit",
        }
    )
    verdict = judged.verdict.model_copy(
        update={"comparisons": (*judged.verdict.comparisons, ceiling)}
    )
    report = judged.model_copy(update={"neighbours": found, "verdict": verdict})
    (alike,) = likenesses(report, videos, {"clip-1": still})
    assert [pair.over for pair in alike.pairs] == [True] * 7
    assert [pair.similarity for pair in alike.pairs] == sorted(
        (pair.similarity for pair in alike.pairs), reverse=True
    )
    assert len(alike.rest) == 1
    page = render_page(report, videos, stills={"clip-1": still})
    assert page.count("over the limit</span>") == 7
    assert page.count('alt="The training clip clip-1"') == 7
    assert page.count("middle of its first window, which need not be the one resembled") == 7


def test_a_line_over_some_groups_is_shown_over_those_prompts_alone():
    """Else the page contradicts the verdict: "under limit" beside videos that are over it."""
    prompts = suite_document()["prompts"]
    for number, prompt in enumerate(prompts):
        prompt["group"] = "domain" if number < 3 else "off_domain"
    gate = {
        "primaries": ["heldout_loss"],
        "guards": [{"metric": "motion_magnitude", "margin": 0.5, "groups": ["off_domain"]}],
        "ceilings": [{"metric": "brightness", "limit": 5.0, "groups": ["off_domain"]}],
    }
    suite = suite_of(prompts=prompts, gate=gate)
    light = {"brightness": 1.0}
    base, new = (arm_of(suite, name, metrics=light) for name in ("base", "challenger v2"))
    changed = tuple(
        video.model_copy(
            update={
                "values": video.values
                | (
                    {"brightness": 9.0, "motion_magnitude": 1.0}
                    if video.prompt == "circle"
                    else {"motion_magnitude": video.values["motion_magnitude"] - 0.1}
                )
            }
        )
        for video in new.videos
    )
    new = new.model_copy(update={"videos": changed})
    report = judge(suite, model="toy", candidate=new, reference=base, provenance={})
    row = next(row for row in metric_table(report).deciding if row.role == "ceiling")
    assert row.result == "under limit"
    assert "0 of 4 over" in row.plainly
    assert {prompt for prompt, _ in video_changes(report)} == {"cross", "diamond"}
    near = tuple(
        neighbour("c", 9.0, number).model_copy(update={"metric": "brightness"})
        for number in range(2)
    )
    (alike,) = likenesses(report.model_copy(update={"neighbours": near}), {}, {})
    assert not alike.broken
    assert not any(pair.over for pair in alike.pairs)


def test_pictures_of_pairs_count_in_the_limit_of_the_page(judged, videos, monkeypatch):
    found = tuple(neighbour("clip-1", 0.9, number) for number in range(10))
    report = judged.model_copy(update={"neighbours": found})
    bare = len(render_page(report, {}).encode())
    monkeypatch.setattr(report_module, "MAX_PAGE_BYTES", bare + 40_000)
    page = render_page(report, videos)
    assert len(page.encode()) <= bare + 40_000
    (few,) = likenesses(report, videos, {}, room=10_000)
    assert sum(len(pair.generated.picture) for pair in few.pairs if pair.generated) <= 10_000
    assert len(few.pairs) == 6


def test_whiskers_stand_on_one_axis(judged):
    """Zero in the middle, a margin of one yardstick at minus one, and no interval off the cell."""
    table = metric_table(judged)
    zero = {label: x for x, label in table.ticks}["0"]
    assert zero == 50.0
    for row in (*table.deciding, *table.information):
        if row.whisker:
            inside = [row.whisker.dot, row.whisker.low, row.whisker.high]
            assert all(0 <= x <= 100 for x in inside if x is not None)
    guard = next(row for row in table.deciding if row.role == "guard")
    (zone,) = guard.whisker.zones
    assert zone == (0.0, {label: x for x, label in table.ticks}["−1"])
    assert guard.notes[0] == next(
        row.sentence for row in judged.verdict.comparisons if row.role == "guard"
    )


def test_a_gain_by_timestep_is_the_share_of_loss_saved(judged):
    """The challenger saves as much at each timestep, of a loss that grows with it."""
    chart = gain_chart(judged)
    (curve,) = chart.curves
    assert len(curve.points) == len(chart.bars) == 2
    assert all(
        high <= y <= low for (_, y), (_, low, high) in zip(curve.points, chart.bars, strict=True)
    )
    assert curve.points[0][1] < curve.points[1][1] < chart.zero


def test_a_sheet_of_many_prompts_takes_all_seeds_in_turn():
    places = [(f"p{number}", seed) for number in range(30) for seed in (1, 2)]
    chosen = report_module._one_seed_each(places)
    assert [seed for _, seed in chosen] == [1, 2] * 15
    assert len({prompt for prompt, _ in chosen}) == 30


def test_the_json_holds_the_whole_report(written, judged):
    assert read_document(written.json, EvaluationReport) == judged
    document = json.loads(written.json.read_text())
    assert {"arm", "prompt", "seed", "metric", "value"} == set(document["scores"][0])
    assert len(document["heldout"]) == 3 * 4 * 2


def test_the_contact_sheet_has_a_row_per_prompt_and_is_not_too_wide(written, judged):
    with Image.open(written.contact_sheet) as sheet:
        assert sheet.width <= 2400
        assert sheet.height > len(judged.prompts) * 96
