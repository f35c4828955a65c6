"""One browser for all tests, one page drawn and judged, and a watch over what pages ask for."""

import pytest

from cogvx.evaluation.report import write_report
from tests.browser.chromium import ABSENT, chromium
from tests.browser.sample import draw_sample


@pytest.fixture(scope="session")
def browser():
    with chromium() as found:
        if found is None:
            pytest.skip(ABSENT)
        yield found


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """Three arms on four prompts with two seeds; do not change it."""
    return draw_sample(tmp_path_factory.mktemp("sample"), prompts=4, height=48, frames=9, limit=0.7)


@pytest.fixture(scope="session")
def written(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return write_report(sample.report, sample.videos, folder, stills=sample.stills).html


@pytest.fixture
def open_page(browser):
    """Opens pages, and says at the end whether any complained or asked for anything."""
    contexts, complaints, requests = [], [], []

    def open_one(path=None, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        if path is not None:
            page.goto(path.as_uri())
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert complaints == []
    asked = [url[:80] for url in requests if not url.startswith(("data:", "blob:", "about:"))]
    assert all(url.startswith("file://") and url.endswith("/report.html") for url in asked)


@pytest.fixture
def page(open_page, written):
    """The sample's page, its first row loaded."""
    opened = open_page(written)
    loaded(opened)
    return opened


def loaded(page):
    """Wait until the first row that can be seen has all its videos."""
    page.wait_for_function(
        """() => {
            const videos = [...document.querySelectorAll("video")].filter(v => v.src);
            return videos.length && videos.every(v => v.readyState > 1);
        }"""
    )
