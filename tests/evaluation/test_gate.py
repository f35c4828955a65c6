"""The rule as it is written, case by case."""

import pytest

from cogvx.evaluation.compare import Measured
from cogvx.evaluation.documents import Verdict
from cogvx.evaluation.gate import Evidence, decide
from cogvx.evaluation.judge import judge
from cogvx.evaluation.wording import Contest
from cogvx.metrics.registry import METRICS
from tests.evaluation.builders import PROMPTS, arm_of, suite_of

BETTER = (0.8, 0.9, 1.1, 0.9)
WORSE = (1.2, 1.5, 1.6, 1.4)
MIXED = (0.8, 1.4, 1.3, 1.2)
GUARDS = [
    {"metric": "motion_magnitude", "margin": 1.0},
    {"metric": "brightness", "margin": 5.0},
]


def verdict_of(suite, *, losses=BETTER, reference=None, **metrics):
    old = reference or arm_of(suite, "base", metrics={"brightness": 100.0})
    new = arm_of(suite, "challenger", losses=losses, metrics={"brightness": 100.0} | metrics)
    return judge(suite, model="toy", candidate=new, reference=old, provenance={}).verdict


@pytest.mark.parametrize(
    ("losses", "metrics", "outcome", "said"),
    [
        (BETTER, {}, "PROMOTE", "is better than base on heldout_loss"),
        (WORSE, {}, "REJECT", "is worse than base"),
        (MIXED, {}, "HOLD", "may be luck"),
        (BETTER, {"motion_magnitude": 8.0}, "REJECT", "worsens motion_magnitude by"),
        (BETTER, {"motion_magnitude": 15.0}, "PROMOTE", "no guard got worse"),
        (BETTER, {"brightness": 110.0}, "REJECT", "changes brightness by"),
        (BETTER, {"brightness": 90.0}, "REJECT", "changes brightness by"),
        (BETTER, {"brightness": 105.0002}, "HOLD", "undecided on brightness"),
        (BETTER, {"motion_magnitude": 9.0012}, "HOLD", "undecided on motion_magnitude"),
    ],
)
def test_the_rule(losses, metrics, outcome, said):
    suite = suite_of(gate={"primaries": ["heldout_loss"], "guards": GUARDS})
    verdict = verdict_of(suite, losses=losses, **metrics)
    assert verdict.outcome == outcome, verdict
    assert said in verdict.headline
    assert verdict.next_step.endswith(".")


def test_what_is_proved_worse_is_refused_whatever_else_was_not_measured():
    suite = suite_of(
        gate={"primaries": ["heldout_loss"], "guards": [{"metric": "base_drift", "margin": 1.0}]}
    )
    assert verdict_of(suite, losses=WORSE).outcome == "REJECT"
    held = verdict_of(suite, losses=BETTER)
    assert held.outcome == "HOLD"
    assert "base_drift was not measured" in held.headline
    assert held.composite.low > 0
    assert any("find a true effect of" in reason for reason in held.reasons)


def test_a_video_metric_as_primary_is_judged_over_prompts():
    suite = suite_of(gate={"primaries": ["temporal_flickering"]})
    verdict = verdict_of(suite, temporal_flickering=0.95)
    assert verdict.outcome == "PROMOTE"
    assert verdict.composite.units == len(PROMPTS)
    assert verdict_of(suite, temporal_flickering=0.85).outcome == "REJECT"


def test_prompts_and_clips_join_in_one_composite():
    suite = suite_of(gate={"primaries": ["temporal_flickering", "heldout_loss"]})
    verdict = verdict_of(suite, temporal_flickering=0.95)
    assert verdict.outcome == "PROMOTE"
    assert verdict.composite.units == len(PROMPTS) + len(BETTER)


def test_margins_in_seed_sds_come_from_the_reference():
    suite = suite_of(
        gate={"primaries": ["heldout_loss"], "guards": [{"metric": "motion_magnitude"}]}
    )
    guard = next(row for row in verdict_of(suite).comparisons if row.role == "guard")
    assert guard.limit == pytest.approx(guard.yardstick)
    assert 0 < guard.limit < 0.05


def test_a_ceiling_looks_at_every_single_video():
    gate = {
        "primaries": ["heldout_loss"],
        "ceilings": [{"metric": "brightness", "limit": 100.5}],
    }
    suite = suite_of(gate=gate)
    assert verdict_of(suite).outcome == "PROMOTE"
    reference = arm_of(suite, "base", metrics={"brightness": 100.0})
    candidate = arm_of(suite, "challenger", losses=BETTER, metrics={"brightness": 100.0})
    first = candidate.videos[0]
    bright = first.model_copy(update={"values": first.values | {"brightness": 101.0}})
    candidate = candidate.model_copy(update={"videos": (bright, *candidate.videos[1:])})
    verdict = judge(
        suite, model="toy", candidate=candidate, reference=reference, provenance={}
    ).verdict
    assert verdict.outcome == "REJECT"
    assert "over the limit" in verdict.headline


def test_one_heldout_clip_is_never_enough():
    suite = suite_of()
    reference = arm_of(suite, losses=(1.0,))
    verdict = verdict_of(suite, losses=(0.1,), reference=reference)
    assert verdict.outcome == "HOLD"
    assert "needs two" in verdict.headline
    assert "hold out more clips" in verdict.next_step.lower()


def test_what_was_not_measured_holds_the_verdict():
    suite = suite_of()
    reference = arm_of(suite, losses=())
    verdict = verdict_of(suite, losses=(), reference=reference)
    assert verdict.outcome == "HOLD"
    assert "heldout_loss was not measured" in verdict.reasons[0]


def test_a_broken_guard_outweighs_what_is_not_known():
    suite = suite_of(gate={"primaries": ["heldout_loss"], "guards": GUARDS})
    reference = arm_of(suite, losses=(), metrics={"brightness": 100.0})
    verdict = verdict_of(suite, losses=(), reference=reference, motion_magnitude=5.0)
    assert verdict.outcome == "REJECT"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arm: {"videos": arm.videos[:-1]}, "has no video of prompt diamond, seed 2"),
        (lambda arm: {"suite": "f" * 64}, "another suite"),
        (lambda arm: {"heldout": arm.heldout[2:]}, "different clips"),
        (lambda arm: {"faults": ("the loss is not finite.",)}, "not finite"),
        (
            lambda arm: {
                "videos": (
                    arm.videos[0].model_copy(update={"faults": ("is black",)}),
                    *arm.videos[1:],
                )
            },
            "is black",
        ),
    ],
)
def test_broken_integrity_means_no_verdict(change, said):
    suite = suite_of()
    reference, candidate = arm_of(suite), arm_of(suite, "challenger", losses=BETTER)
    candidate = candidate.model_copy(update=change(candidate))
    verdict = judge(
        suite, model="toy", candidate=candidate, reference=reference, provenance={}
    ).verdict
    assert verdict.outcome == "INVALID"
    assert said in " ".join(verdict.reasons)
    assert verdict.comparisons == ()


def test_an_arm_against_itself_is_held():
    suite = suite_of(gate={"primaries": ["heldout_loss"], "guards": GUARDS})
    arm = arm_of(suite, metrics={"brightness": 100.0})
    again = arm.model_copy(update={"name": "again"})
    verdict = judge(suite, model="toy", candidate=again, reference=arm, provenance={}).verdict
    assert verdict.outcome == "HOLD"
    assert verdict.composite.won == verdict.composite.lost == 0


def test_two_primaries_without_a_seed_sd_are_held():
    suite = suite_of(seeds=[1], gate={"primaries": ["temporal_flickering", "motion_magnitude"]})
    verdict = verdict_of(suite, temporal_flickering=0.95)
    assert verdict.outcome == "HOLD"
    assert "give the suite two seeds" in verdict.headline


def test_the_verdict_survives_json():
    suite = suite_of(gate={"primaries": ["heldout_loss"], "guards": GUARDS})
    verdict = verdict_of(suite)
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict
    assert any("motion_magnitude (guard" in reason for reason in verdict.reasons)


def test_the_rule_can_be_asked_without_any_arm():
    measured = {
        "heldout_loss": Measured(
            METRICS["heldout_loss"],
            {("a", 1): 1.0, ("b", 1): 1.5},
            {("a", 1): 0.90, ("b", 1): 1.41},
        )
    }
    verdict = decide(Contest(suite_of(), "old", "new"), Evidence(measured))
    assert verdict.comparisons[0].effect.mean == pytest.approx(0.095)
    assert verdict.outcome == "PROMOTE"
