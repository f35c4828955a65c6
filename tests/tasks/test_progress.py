"""Progress is told often at first and seldom later, so that a long run has a short log."""

import logging

import pytest

from tasks.pages.progress import Progress


def test_the_longer_it_takes_the_more_seldom_a_line_comes(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("tasks.pages.progress.time.monotonic", lambda: now[0])
    logger = logging.getLogger("tests.progress")
    caplog.set_level(logging.INFO, logger.name)
    progress = Progress("train", "steps", logger)
    lines: list[int] = []
    for second in range(24 * 3600):
        now[0] = 1000.0 + second
        progress(second, 24 * 3600)
        lines.append(len(caplog.records))  # not .messages, which are put together each time
    assert 10 <= lines[60] <= 13  # in the first minute one each five seconds
    assert lines[-1] < 1700
    assert caplog.messages[5] == "train: 30/86400 steps, 1.00 steps/s, 24.0 h left"
