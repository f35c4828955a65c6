"""The history of a model fits every width, and a version is found by keyboard and by a click."""

import pytest

from cogvx.evaluation.history_page import history_page
from tests.browser.test_reading import FAINT, UNNAMED
from tests.evaluation.test_history import history_of_versions


@pytest.fixture(scope="module")
def page_of_history(tmp_path_factory):
    """Two hundred versions; called as the report is, which is what pages may ask for."""
    path = tmp_path_factory.mktemp("history") / "report.html"
    path.write_text(history_page(history_of_versions(200)), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [500, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_history_fits_its_window_and_can_be_read(open_page, page_of_history, width, scheme):
    page = open_page(page_of_history, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(FAINT) == []
    assert page.evaluate(UNNAMED) == []


def test_one_version_is_looked_at_in_every_chart(open_page, page_of_history):
    page = open_page(page_of_history)
    said = page.locator("nav output")
    assert "version 200;" in said.inner_text()
    page.focus("#which")
    page.keyboard.press("ArrowLeft")
    assert "version 199;" in said.inner_text()
    assert page.get_attribute("#which", "aria-valuetext").startswith("version 199;")
    page.keyboard.press("Home")
    assert "version 1;" in said.inner_text()
    places = page.evaluate(
        "[...document.querySelectorAll('.cursor')].map(c => c.getAttribute('x1'))"
    )
    assert set(places) == {"0.25%"}
    plot = page.locator("[data-plot]").nth(1)
    box = plot.bounding_box()
    plot.click(position={"x": box["width"] * 0.5025, "y": 20})
    assert "version 101;" in said.inner_text()


def test_a_row_among_the_earlier_ones_is_opened(open_page, page_of_history):
    page = open_page(page_of_history)
    page.focus("#which")
    page.keyboard.press("Home")
    page.click("nav a")
    row = page.locator("#v1")
    assert row.is_visible()
    assert "selected" in row.get_attribute("class")


def test_without_scripts_every_version_is_there(open_page, page_of_history):
    page = open_page(page_of_history, java_script_enabled=False)
    assert page.locator("tr[data-x]").count() == 200
    assert not page.locator("nav").is_visible()
