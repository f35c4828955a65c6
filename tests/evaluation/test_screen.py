"""The screen: which held-out losses end an evaluation before a video is rendered."""

import logging

import pytest

from cogvx.evaluation.documents import Verdict
from cogvx.evaluation.judge import report_of
from cogvx.evaluation.screen import screen
from cogvx.evaluation.wording import Contest
from tests.evaluation.builders import arm_of, suite_of

BASE = (1.0, 1.2, 1.4, 1.1)
BETTER = (0.8, 0.9, 1.1, 0.9)
SLIGHTLY = (0.99, 1.22, 1.37, 1.1)


def losses(values):
    return arm_of(suite_of(), losses=values).losses()


def verdict_of(candidate, *, champion=None, **gate):
    suite = suite_of(gate={"primaries": ["heldout_loss"], **gate})
    given = {"candidate": losses(candidate), "reference": losses(champion or BASE)}
    if champion is not None:
        given["base"] = losses(BASE)
    return screen(Contest(suite, "champion v3" if champion else "base", "challenger v4"), given)


def test_what_lowers_the_loss_goes_on_however_little():
    assert verdict_of(BETTER) is None
    assert verdict_of(SLIGHTLY) is None
    assert verdict_of(SLIGHTLY, champion=SLIGHTLY) is None


def test_what_does_not_lower_the_loss_of_the_base_is_stopped():
    for values in (BASE, (1.01, 1.19, 1.41, 1.1)):
        verdict = verdict_of(values)
        assert (verdict.outcome, verdict.stage, verdict.look) == ("REJECT", "screen", 1)
        assert "challenger v4 does not lower the held-out loss of base" in verdict.headline
        assert "no video was rendered" in verdict.headline
        assert "gate.screen = false" in verdict.next_step
        (row,) = verdict.comparisons
        assert row.effect.mean <= 0
        assert row.effect.units == 4
        assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_the_champion_stops_only_what_is_proved_worse():
    champion = (0.5, 0.7, 0.9, 0.6)
    verdict = verdict_of(BETTER, champion=champion)
    assert "is proved worse than champion v3" in verdict.headline
    assert [row.label for row in verdict.comparisons] == [
        "heldout_loss against base",
        "heldout_loss",
    ]
    assert verdict.comparisons[1].effect.high < 0
    assert verdict.comparisons[1].effect.confidence == 0.975
    assert verdict_of(BETTER, champion=(0.85, 0.8, 1.15, 0.8)) is None
    # of the same four differences less is proved at a higher confidence
    assert verdict_of(BETTER, champion=champion, confidence=0.99999) is None


def test_the_base_counts_beside_a_champion_that_is_worse_still():
    verdict = verdict_of((1.1, 1.3, 1.5, 1.2), champion=(2.0, 2.0, 2.0, 2.0))
    assert "does not lower the held-out loss of base" in verdict.headline
    assert verdict.reference == "champion v3"


def test_a_suite_can_do_without(caplog):
    assert verdict_of(BASE, screen=False) is None
    with caplog.at_level(logging.WARNING):
        assert verdict_of((1.0,), champion=(1.0,)) is None
    assert "it needs 2 held-out clips and there are 1" in caplog.text


def test_losses_that_are_not_finite_or_of_other_clips_are_invalid():
    verdict = verdict_of((float("nan"), 1.0, 1.0, 1.0))
    assert (verdict.outcome, verdict.stage) == ("INVALID", "screen")
    assert "challenger v4's held-out loss of clip-0.mp4 at timestep 250 is not finite" in (
        verdict.headline
    )
    assert verdict_of(BETTER[:3]).outcome == "INVALID"
    assert "different clips" in verdict_of(BETTER[:3]).headline


@pytest.mark.parametrize("champion", [None, (0.5, 0.7, 0.9, 0.6)])
def test_a_report_can_be_made_of_it_without_a_video(champion):
    suite = suite_of()
    verdict = verdict_of(BASE, champion=champion)
    arms = {"candidate": arm_of(suite, "challenger v4"), "reference": arm_of(suite, "base")}
    bare = {role: arm.model_copy(update={"videos": ()}) for role, arm in arms.items()}
    report = report_of(suite, verdict, model="toy", **bare, provenance={})
    assert report.verdict == verdict
    assert report.videos == ()
    assert len(report.heldout) == 16
