"""A headless Chromium for tests and pictures: the machine's, or one that Playwright downloaded."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
ABSENT = "no Chromium on this machine: install the package chromium, or run `playwright install`"


@contextmanager
def chromium() -> Iterator[Browser | None]:
    """A browser until the block ends; None where the machine has none."""
    with sync_playwright() as playwright:
        found = [path for name in NAMES if (path := shutil.which(name))]
        path = found[0] if found else playwright.chromium.executable_path
        if not Path(path).exists():
            yield None
            return
        browser = playwright.chromium.launch(
            executable_path=path, args=["--disable-dev-shm-usage", "--mute-audio"]
        )
        try:
            yield browser
        finally:
            browser.close()
