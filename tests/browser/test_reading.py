"""The page fits every width, is read aloud and by keyboard, and works in a sandboxed viewer."""

import itertools

import pytest

from tests.browser.conftest import loaded
from tests.browser.sample import ARMS

UNNAMED = """() => [..."button, input, textarea, summary, video, svg[role], img".split(", ")]
    .flatMap(kind => [...document.querySelectorAll(kind)])
    .filter(e => e.getClientRects().length)
    .filter(e => !(e.getAttribute("aria-label") || e.alt || e.innerText?.trim()
        || e.labels?.[0]?.innerText.trim()))
    .map(e => e.outerHTML.slice(0, 90))"""
HEADINGS = """() => [...document.querySelectorAll("h1, h2, h3, h4")]
    .filter(e => e.getClientRects().length).map(e => Number(e.tagName[1]))"""
IDS = """() => [...document.querySelectorAll("[id]")].map(e => e.id)"""
REFERRED = """() => ["aria-describedby", "aria-controls", "aria-labelledby"].flatMap(
    name => [...document.querySelectorAll(`[${name}]`)].map(e => e.getAttribute(name)))"""
# Contrast by WCAG 2: every text that is seen against the colour behind it.
FAINT = r"""() => {
    const parse = text => {
        const found = text.match(/[\d.]+/g).map(Number);
        return found.length < 4 ? [...found, 1] : found;
    };
    const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) =>
        0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) + 0.05;
    const over = (top, below) => below.map((v, i) => top[i] * top[3] + v * (1 - top[3]));
    const behind = element => {
        if (!element) return [255, 255, 255];
        const own = parse(getComputedStyle(element).backgroundColor);
        return over(own, own[3] === 1 ? [0, 0, 0] : behind(element.parentElement));
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
    for (let node; node = walker.nextNode();) {
        const element = node.parentElement, style = getComputedStyle(element);
        const seen = element.getClientRects().length && style.visibility !== "hidden";
        if (!node.data.trim() || !seen || element.closest("svg, .unseen, script")) continue;
        const back = behind(element), fore = over(parse(style.color), back);
        const [dark, bright] = [light(fore), light(back)].sort((a, b) => a - b);
        if (bright / dark < 4.5) found.push([node.data.trim().slice(0, 30), bright / dark]);
    }
    return found;
}"""


@pytest.mark.parametrize("width", [500, 900, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window_and_can_be_read(open_page, written, width, scheme):
    page = open_page(written, viewport={"width": width, "height": 700}, color_scheme=scheme)

    def fits():
        return page.evaluate("document.documentElement.scrollWidth") <= width

    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert fits()
    assert page.evaluate(FAINT) == []
    page.click("[data-act=text]")
    page.click("[data-act=keys]")
    assert fits()
    # Larger videos are laid out in another way.
    page.evaluate("document.body.classList.remove('tiny')")
    assert fits()
    page.click("[data-act=blind]")
    assert fits()
    assert page.evaluate(FAINT) == []
    loaded(page)


def test_every_control_has_a_name_and_headings_follow_each_other(page):
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate(UNNAMED) == []
    levels = page.evaluate(HEADINGS)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = page.evaluate(IDS)
    assert len(ids) == len(set(ids))
    assert set(page.evaluate(REFERRED)) <= set(ids)


def test_a_metric_explains_itself_by_mouse_and_by_keyboard(page, sample):
    sentence = sample.report.verdict.comparisons[0].sentence
    tip = page.locator(".tip", has_text=sentence).first
    page.wait_for_timeout(100)
    assert not tip.is_visible()
    asks = tip.evaluate("tip => tip.parentElement.querySelector('.asks').outerHTML")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.outerHTML") == asks:
            break
    tip.wait_for()  # it fades in: at the very moment of the key it is still hidden
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    page.keyboard.press("Escape")
    tip.wait_for(state="hidden")
    page.hover(f".asks:has-text('{sample.report.verdict.comparisons[1].metric}')")
    page.locator(".tip", has_text=sample.report.verdict.comparisons[1].sentence).wait_for()


def test_the_page_works_in_a_sandboxed_viewer(open_page, written):
    """As MLflow shows it: no origin, so no storage, no clipboard and no way out."""
    viewer = open_page()
    viewer.set_content(
        "<!doctype html><iframe sandbox='allow-scripts' width=500 height=700></iframe>"
    )
    viewer.evaluate(
        """text => {
            const blob = new Blob([text], { type: "text/html" });
            document.querySelector("iframe").src = URL.createObjectURL(blob);
        }""",
        written.read_text(),
    )
    frame = None
    for _ in range(200):  # ten seconds, on a busy machine
        viewer.wait_for_timeout(50)
        frame = next((each for each in viewer.frames if each.url.startswith("blob:")), None)
        if frame is not None:
            break
    assert frame is not None
    frame.wait_for_selector("[data-act=play]")
    frame.evaluate("document.querySelector('[data-row]').scrollIntoView()")
    frame.wait_for_function("() => document.querySelector('[data-row] video').currentTime > 0.3")
    frame.click("[data-act=blind]")
    frame.locator("[data-round] [data-vote=same]").first.click()
    frame.click("[data-act=blind]")
    assert "no winner" in frame.input_value("#votes textarea")
    frame.click("#votes [data-copy]")
    frame.wait_for_selector("#votes [data-copy]:text-matches('Copied|Ctrl')")
    assert frame.evaluate("innerWidth") >= frame.evaluate("document.documentElement.scrollWidth")


def test_the_printed_page_shows_frames_instead_of_videos(page, sample):
    page.emulate_media(media="print")
    assert not page.locator("video").first.is_visible()
    assert not page.locator(".tools").is_visible()
    assert page.locator(".strip").first.is_visible()
    reasons = page.locator(".reading .reasons li")
    assert reasons.count() == len(sample.report.verdict.reasons)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert all(arm in page.inner_text("main") for arm in ARMS)
