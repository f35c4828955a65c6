"""Clips of a row start together, stay together, and move frame by frame together."""

import pytest

from tests.browser.conftest import loaded
from tests.browser.sample import ARMS, FPS

NEAR = """() => [...document.querySelectorAll("[data-row]")]
    .map(row => [...row.querySelectorAll("video")].filter(v => v.src)
        .map(v => ({at: v.currentTime, paused: v.paused, ended: v.ended, rate: v.playbackRate})))
    .filter(videos => videos.length)"""


def near(page):
    """The clips of each row that is in sight."""
    return page.evaluate(NEAR)


def test_the_clips_of_a_row_play_together_and_again(page):
    furthest = 0.0
    for _ in range(20):
        page.wait_for_timeout(120)
        for row in near(page):
            assert len(row) == len(ARMS)
            places = [video["at"] for video in row]
            assert max(places) - min(places) < 2.5 / FPS
            furthest = max(furthest, *places)
    assert furthest > 4 / FPS
    page.wait_for_function("() => document.querySelector('video').currentTime < 0.3")


def test_a_step_moves_every_clip_by_one_frame(page):
    page.click("[data-act=next]")
    first = [video for row in near(page) for video in row]
    assert all(video["paused"] for video in first)
    assert len({video["at"] for video in first}) == 1
    page.click("[data-act=next]")
    (second,) = {video["at"] for row in near(page) for video in row}
    count = 9
    step = round((second - first[0]["at"]) * FPS) % count
    assert step == 1
    assert "Frame" in page.inner_text("[data-state]")
    page.click("[data-act=back]")
    assert {video["at"] for row in near(page) for video in row} == {first[0]["at"]}


def test_all_clips_pause_play_and_slow_down(page):
    page.click("[data-act=play]")
    assert all(video["paused"] for row in near(page) for video in row)
    assert page.inner_text("[data-act=play]") == "Play all"
    page.click("[data-act=slow]")
    assert {video["rate"] for row in near(page) for video in row} == {0.25}
    assert page.get_attribute("[data-act=slow]", "aria-pressed") == "true"
    page.click("[data-act=play]")
    page.wait_for_function("() => !document.querySelector('video').paused")


def test_only_rows_near_the_window_hold_videos(page):
    """A browser opens few players at a time."""
    page.set_viewport_size({"width": 500, "height": 400})
    page.click("summary:has-text('All others')")
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_function("() => document.querySelectorAll('video[src]').length < 7")
    page.evaluate("document.querySelector('.more .row:last-child').scrollIntoView()")
    page.wait_for_function("() => document.querySelector('.more .row:last-child video').src")
    page.wait_for_function("() => !document.querySelector('.row video').src")


def test_nothing_moves_for_who_asked_for_less_motion(open_page, written):
    page = open_page(written, reduced_motion="reduce")
    loaded(page)
    page.wait_for_timeout(300)
    assert all(video["paused"] and not video["at"] for row in near(page) for video in row)
    assert "less motion" in page.inner_text("[data-state]")


@pytest.mark.parametrize(("key", "expected"), [("k", True), ("q", False)])
def test_keys_act_and_can_be_told_not_to(page, key, expected):
    page.keyboard.press(key)
    assert all(video["paused"] is expected for row in near(page) for video in row)
    page.click("[data-act=keys]")
    page.uncheck("[data-keys]")
    before = page.inner_text("[data-act=play]")
    page.keyboard.press("k")
    assert page.inner_text("[data-act=play]") == before
