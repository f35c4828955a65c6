"""Pictures of the report for the documentation: `python -m tests.browser.pictures docs`.

The contest is the sample's, drawn for this purpose. Colours are reduced to 256, so that a picture
stays below 400 kB.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from cogvx.evaluation.report import write_report
from tests.browser.chromium import ABSENT, chromium
from tests.browser.conftest import loaded
from tests.browser.sample import draw_sample


def main(folder: Path) -> None:
    """Write three pictures below `folder`: wide and light, narrow and dark, and a blind round."""
    with tempfile.TemporaryDirectory() as work, chromium() as browser:
        if browser is None:
            sys.exit(ABSENT)
        sample = draw_sample(Path(work), frames=13)
        page = write_report(sample.report, sample.videos, Path(work), stills=sample.stills).html
        take_pictures(browser, page, folder)


def take_pictures(browser: Browser, page: Path, folder: Path) -> None:
    """Three widths of one page."""
    shown = open_page(browser, page, (1280, 1120), "light")
    save(shown, folder / "report.png")
    shown = open_page(browser, page, (500, 1560), "dark")
    save(shown, folder / "report-narrow.png")
    shown = open_page(browser, page, (1600, 820), "light")
    shown.click("[data-act=blind]")
    loaded(shown)
    shown.locator("[data-round] [data-vote=right]").first.click()
    save(shown, folder / "report-blind.png")


def open_page(browser: Browser, page: Path, sides: tuple[int, int], scheme: str) -> Page:
    """The page as a reader finds it, its clips halted at the same frame."""
    width, height = sides
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    opened = context.new_page()
    opened.goto(page.as_uri())
    loaded(opened)
    return opened


def save(page: Page, path: Path) -> None:
    """One screen of a page."""
    for _ in range(6):
        page.keyboard.press(".")
    page.wait_for_timeout(1500)
    page.mouse.move(0, 0)
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        reduced = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    reduced.save(path, "PNG", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
