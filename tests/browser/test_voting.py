"""Blind, nobody can tell the arms; revealed, every vote is counted for the arm it was given to."""

from tests.browser.conftest import loaded
from tests.browser.sample import ARMS

SEEN = """() => {
    const words = [document.body.innerText];
    for (const element of document.querySelectorAll("[aria-label], [alt], [title]")) {
        if (element.getClientRects().length) {
            words.push(element.getAttribute("aria-label"), element.alt, element.title);
        }
    }
    return words.filter(Boolean).join(" ");
}"""
SHUFFLE = """() => [...document.querySelectorAll("[data-round] [data-row]")].map(row => [
    row.dataset.prompt, row.dataset.seed,
    [...row.querySelectorAll("figure")].filter(f => f.getClientRects().length)
        .map(f => f.dataset.arm)])"""
ORDER = """() => [...document.querySelectorAll("[data-row]")].map(row => [
    row.dataset.prompt, row.dataset.seed,
    [...row.querySelectorAll("figure")].map(f => f.dataset.arm).join()])"""


def vote(page, row, side, *, pressed="true"):
    """Press a button of a row of the blind round, and wait until it says so."""
    button = f"[data-round] [data-row]:nth-child({row + 1}) [data-vote={side}]"
    page.click(button)
    page.wait_for_selector(f"{button}[aria-pressed={pressed}]")


def text(page):
    return page.input_value("#votes textarea")


def test_a_blind_page_tells_nothing(page, sample):
    page.click("[data-act=blind]")
    seen = page.evaluate(SEEN)
    assert not [arm for arm in ARMS[1:] if arm in seen]
    assert sample.report.verdict.outcome not in seen
    assert not [word for word in ("change", "motion", "calm", "loss", "win") if f"{word} " in seen]
    shuffle = page.evaluate(SHUFFLE)
    assert len(shuffle) == len(sample.report.prompts) * len(sample.report.seeds)
    assert {tuple(sorted(sides)) for _, _, sides in shuffle} == {tuple(sorted(ARMS[1:]))}
    assert len({tuple(sides) for _, _, sides in shuffle}) == 2
    loaded(page)


def test_neither_the_tab_nor_the_frame_of_a_faulty_video_tells_an_arm(page, sample):
    """What is flat or black has a red outline, and its words stand below: not in a blind round."""
    title = page.title()
    assert sample.report.verdict.outcome in title
    page.evaluate(
        """() => document.querySelectorAll('figure[data-role="reference"]')
            .forEach(figure => figure.classList.add("faulty"))"""
    )
    outlines = """() => [...new Set([...document.querySelectorAll("figure video")]
        .filter(video => video.getClientRects().length)
        .map(video => getComputedStyle(video).outlineStyle))]"""
    assert sorted(page.evaluate(outlines)) == ["none", "solid"]
    page.click("[data-act=text]")
    page.click("[data-act=blind]")
    assert page.evaluate(outlines) == ["none"]
    assert page.title() == "Which is better?"
    assert not page.is_visible("#votes")
    page.click("[data-act=blind]")
    assert page.title() == title


def test_a_shuffle_is_the_same_on_every_copy_and_the_next_is_another(page, open_page, written):
    page.click("[data-act=blind]")
    first = page.evaluate(SHUFFLE)
    page.click("[data-act=blind]")
    page.click("[data-act=blind]")
    assert page.evaluate(SHUFFLE) != first
    other = open_page(written)
    other.keyboard.press("b")
    assert other.evaluate(SHUFFLE) == first


def test_revealing_puts_everything_back(page):
    before, names = page.evaluate(ORDER), page.evaluate(SEEN)
    page.click("[data-act=blind]")
    assert page.evaluate(ORDER) != before
    page.click("[data-act=blind]")
    assert page.evaluate(ORDER) == before
    assert all(names.count(arm) <= page.evaluate(SEEN).count(arm) for arm in ARMS)
    loaded(page)


def test_votes_are_counted_for_the_arm_and_not_for_the_side(page, sample):
    page.click("[data-act=blind]")
    shuffle = page.evaluate(SHUFFLE)
    for row, (_, _, sides) in enumerate(shuffle[:4]):
        vote(page, row, ("left", "right")[sides.index(ARMS[2])])
    vote(page, 4, "same")
    vote(page, 5, ("left", "right")[shuffle[5][2].index(ARMS[1])])
    vote(page, 6, "left")
    vote(page, 6, "left", pressed="false")
    assert "withdrawn" in page.inner_text("[data-told]")
    assert "6 of 8 voted" in page.inner_text("[data-state]")
    page.click("[data-act=text]")
    assert not [line for line in text(page).splitlines()[1:] if ARMS[1] in line or ARMS[2] in line]
    page.click("[data-act=blind]")
    told = text(page)
    assert f"{ARMS[2]} wins. {ARMS[2]} 4, {ARMS[1]} 1, same 1; 6 of 8 rows" in told
    assert "sign test p = 0.38" in told
    assert told.splitlines()[0].startswith(f"{sample.report.model}: {ARMS[2]} against {ARMS[1]}")
    prompt, seed, _ = shuffle[5]
    assert f"{prompt}, seed {seed}: {ARMS[1]}" in told
    pressed = page.locator(f"[data-prompt={prompt}][data-seed='{seed}'] [aria-pressed=true]")
    assert pressed.evaluate_all("found => found.map(b => b.textContent)") == [ARMS[1]]


def test_votes_are_given_and_walked_through_by_keys(page):
    page.keyboard.press("b")
    page.keyboard.press("j")
    page.keyboard.press("2")
    page.keyboard.press("j")
    page.keyboard.press("3")
    page.wait_for_selector("[data-told]:has-text('2 of 8 voted')", state="attached")
    pressed = page.locator("[data-round] [aria-pressed=true]")
    assert pressed.all_inner_texts() == ["same", "right"]


def test_an_open_vote_is_kept_apart_from_blind_ones(page):
    page.locator("[data-vote=right]").first.click()
    page.click("[data-act=blind]")
    assert page.locator("[data-round] [aria-pressed=true]").count() == 0
    vote(page, 0, "same")
    page.click("[data-act=blind]")
    page.wait_for_selector("#votes", state="visible")
    assert f"Open, names shown: {ARMS[2]} wins" in text(page)
    assert "Blind, shuffle 1: no winner" in text(page)
