"""Flat, frozen and black videos: whose fault they are, and what they may not do to a margin."""

import pytest

from cogvx.evaluation.judge import judge
from cogvx.evaluation.ordering import faulty_places
from cogvx.metrics.pixels import FLAT, FROZEN
from tests.evaluation.builders import arm_of, suite_of

BLACK = "is black, which is how NaN in the model shows"
BETTER = (0.8, 0.9, 1.1, 0.9)


def with_faults(arm, *, videos, faults, **values):
    """The arm with the same faults, and other numbers, on some of its videos."""
    changed = [
        video.model_copy(update={"faults": faults, "values": video.values | values})
        if number in videos
        else video
        for number, video in enumerate(arm.videos)
    ]
    return arm.model_copy(update={"videos": tuple(changed)})


def judged(suite, reference, candidate):
    return judge(
        suite, model="toy", candidate=candidate, reference=reference, provenance={}
    ).verdict


def arms(suite):
    return arm_of(suite, "base"), arm_of(suite, "challenger", losses=BETTER)


def test_a_flat_video_of_the_reference_is_told_and_no_fault_of_the_challenger():
    suite = suite_of()
    reference, candidate = arms(suite)
    reference = with_faults(reference, videos=(0, 3), faults=(FLAT, FROZEN))
    verdict = judged(suite, reference, candidate)
    assert verdict.outcome == "PROMOTE"
    assert (
        "2 of base's videos are flat or frozen (circle, seed 1; square, seed 2)"
        in (verdict.reasons[-1])
    )


@pytest.mark.parametrize("faults", [(FLAT,), (FROZEN,), (FLAT, FROZEN)])
def test_the_challenger_may_be_flat_only_where_the_reference_is_so_as_well(faults):
    suite = suite_of()
    reference, candidate = arms(suite)
    candidate = with_faults(candidate, videos=(2,), faults=faults)
    assert judged(suite, reference, candidate).outcome == "INVALID"
    elsewhere = with_faults(reference, videos=(3,), faults=faults)
    assert judged(suite, elsewhere, candidate).outcome == "INVALID"
    there = with_faults(reference, videos=(2,), faults=faults)
    assert judged(suite, there, candidate).outcome == "PROMOTE"
    assert "As base draws them so as well" in judged(suite, there, candidate).reasons[-1]


def test_frozen_is_not_excused_by_flat():
    suite = suite_of()
    reference, candidate = arms(suite)
    reference = with_faults(reference, videos=(2,), faults=(FLAT,))
    candidate = with_faults(candidate, videos=(2,), faults=(FLAT, FROZEN))
    verdict = judged(suite, reference, candidate)
    assert verdict.reasons == (f"challenger's video of prompt square, seed 1 {FROZEN}.",)


@pytest.mark.parametrize(
    "fault", [BLACK, "is 9x48x64, not 9x48x48", "could not be rendered: out of memory"]
)
def test_every_other_fault_is_one_in_either_arm(fault):
    suite = suite_of()
    reference, candidate = arms(suite)
    broken = with_faults(reference, videos=(2,), faults=(fault,))
    assert judged(suite, broken, candidate).outcome == "INVALID"
    both = with_faults(candidate, videos=(2,), faults=(fault,))
    assert judged(suite, broken, both).outcome == "INVALID"
    assert judged(suite, reference, both).outcome == "INVALID"


def test_flat_videos_count_in_the_effect_and_widen_no_margin():
    suite = suite_of(
        gate={"primaries": ["heldout_loss"], "guards": [{"metric": "motion_magnitude"}]}
    )
    reference, candidate = arms(suite)
    flat = with_faults(reference, videos=(0,), faults=(FLAT,), motion_magnitude=0.0)
    plain, told = (
        next(row for row in judged(suite, old, candidate).comparisons if row.role == "guard")
        for old in (reference, flat)
    )
    assert told.effect.mean == pytest.approx(plain.effect.mean + 10.0 / 10, abs=0.01)
    assert told.limit < 0.05  # one seed SD without the flat one, that with it is about 2
    assert told.limit == pytest.approx(plain.limit, rel=0.3)


def beside_a_champion(suite, base):
    return judge(
        suite,
        model="toy",
        candidate=arm_of(suite, "challenger", losses=BETTER),
        reference=arm_of(suite, "champion"),
        base=base,
        provenance={},
    )


FAILED = ("could not be rendered: out of memory",)


@pytest.mark.parametrize("faults", [FAILED, (BLACK,), None])
@pytest.mark.parametrize("metric", ["base_distance", "base_drift"])
def test_a_broken_video_of_the_base_is_a_fault_where_the_rule_compares_with_it(metric, faults):
    """Else the guard would be over fewer prompts than the suite has, and nobody would know."""
    gate = {"primaries": ["heldout_loss"], "guards": [{"metric": metric, "margin": 0.5}]}
    prompts = [
        {"id": name, "prompt": name, "group": group}
        for name, group in (("circle", "domain"), ("square", "off_domain"), ("ring", "off_domain"))
    ]
    suite = suite_of(prompts=prompts, gate=gate)
    base = arm_of(suite, "base")
    report = beside_a_champion(suite, base)
    assert report.verdict.outcome != "INVALID"
    assert faulty_places(report) == ()
    if faults is None:
        base = base.model_copy(update={"videos": base.videos[:2] + base.videos[3:]})
    else:
        base = with_faults(base, videos=(2,), faults=faults)
    report = beside_a_champion(suite, base)
    assert report.verdict.outcome == "INVALID"
    assert "base" in report.verdict.headline
    assert "square, seed 1" in report.verdict.headline
    assert faulty_places(report) == (("square", 1),)


def test_a_broken_video_of_a_base_that_decides_nothing_is_told_and_shown():
    suite = suite_of()
    base = with_faults(arm_of(suite, "base"), videos=(2,), faults=FAILED)
    report = beside_a_champion(suite, base)
    assert report.verdict.outcome == "PROMOTE"
    assert "base's video of prompt square, seed 1 could not be" in report.verdict.reasons[-1]
    assert "does not rest on the base" in report.verdict.reasons[-1]
    assert faulty_places(report) == (("square", 1),)


def test_a_flat_video_of_a_base_beside_a_champion_is_no_fault():
    suite = suite_of()
    report = beside_a_champion(
        suite, with_faults(arm_of(suite, "base"), videos=(2,), faults=(FLAT,))
    )
    assert report.verdict.outcome == "PROMOTE"
    assert faulty_places(report) == ()
