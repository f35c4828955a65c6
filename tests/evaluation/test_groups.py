"""Which prompts each line of the rule is over, limits that were measured, what could be found."""

from functools import partial

import numpy as np
import pytest
from scipy import stats

from cogvx.evaluation.documents import Limit, Reading
from cogvx.evaluation.judge import judge
from cogvx.evaluation.statistics import allowed_over
from cogvx.evaluation.suite import suite_problems
from tests.evaluation.builders import arm_of, suite_document, suite_of

GROUPS = {
    "circle": "domain",
    "square": "domain",
    "ring": "trigger_free",
    "cross": "off_domain",
    "diamond": "train_caption",
}
BETTER = (0.8, 0.9, 1.1, 0.9)
CALM = {"primaries": ["temporal_flickering"]}
HELDOUT = {"primaries": ["heldout_loss"]}
VARIED = {"primaries": ["diversity_luma"]}


def grouped(groups=GROUPS, **changes):
    prompts = [
        {"id": name, "prompt": f"a red {name} moves left", "group": group}
        for name, group in groups.items()
    ]
    return suite_document(prompts=prompts, **changes)


def moved(arm, prompts, metric, change):
    """The arm with one metric changed on some prompts."""
    videos = [
        video.model_copy(update={"values": video.values | {metric: video.values[metric] + change}})
        if video.prompt in prompts
        else video
        for video in arm.videos
    ]
    return arm.model_copy(update={"videos": tuple(videos)})


def guarding(primary, *guards):
    """A rule whose guards are a metric and its groups each."""
    lines = [
        {"metric": metric} | ({"groups": groups} if groups else {}) for metric, *groups in guards
    ]
    return primary | {"guards": lines}


def judged(gate, change=lambda arm: arm, *, limits=None, readings=((), ())):
    suite = suite_of(**grouped(gate=gate))
    level = {"brightness": 100.0}
    old, new = (
        arm_of(suite, name, metrics=level, losses=losses).model_copy(update={"readings": found})
        for name, losses, found in (
            ("base", (1.0, 1.2, 1.4, 1.1), readings[0]),
            ("challenger", BETTER, readings[1]),
        )
    )
    return judge(
        suite,
        model="toy",
        candidate=change(new),
        reference=old,
        provenance={},
        limits=limits or {},
    )


def rows(report):
    return {row.label: row for row in report.verdict.comparisons if row.role != "info"}


def test_a_primary_of_videos_is_over_what_the_adapter_is_for():
    lost = judged(CALM, lambda arm: moved(arm, ("ring", "cross"), "temporal_flickering", -0.5))
    gained = judged(CALM, lambda arm: moved(arm, ("circle", "square"), "temporal_flickering", 0.1))
    assert gained.verdict.outcome == "PROMOTE"
    assert gained.verdict.composite.units == 2
    row = rows(gained)["temporal_flickering on domain"]
    assert row.effect.mean == pytest.approx(0.1, abs=0.005)
    assert lost.verdict.composite == judged(CALM).verdict.composite


@pytest.mark.parametrize(
    ("groups", "prompts", "result"),
    [
        (None, ("diamond",), "not worse"),  # training captions measure memory, and nothing else
        (None, ("circle", "ring", "square", "cross"), "worse"),
        (["trigger_free", "off_domain"], ("circle", "square", "diamond"), "not worse"),
        (["trigger_free", "off_domain"], ("ring", "cross"), "worse"),
    ],
)
def test_a_guard_is_over_its_groups_or_over_all_but_training_captions(groups, prompts, result):
    guard = {"metric": "motion_magnitude", "margin": 1.0}
    gate = {
        "primaries": ["heldout_loss"],
        "guards": [guard | ({"groups": groups} if groups else {})],
    }
    report = judged(gate, lambda arm: moved(arm, prompts, "motion_magnitude", -5.0))
    (row,) = [row for row in report.verdict.comparisons if row.role == "guard"]
    assert row.result == result
    assert row.groups == tuple(groups or ("domain", "trigger_free", "off_domain"))
    assert row.effect.units == (2 if groups else 4)


def test_one_metric_is_a_primary_here_and_guarded_twice_elsewhere():
    gate = guarding(
        CALM,
        ("temporal_flickering", "trigger_free", "off_domain"),
        ("temporal_flickering", "trigger_free", "off_domain", "train_caption"),
    )
    for guard, margin in zip(gate["guards"], (0.05, 0.5), strict=True):
        guard["margin"] = margin
    report = judged(
        gate,
        lambda arm: moved(
            moved(arm, ("circle", "square"), "temporal_flickering", 0.1),
            ("ring", "cross"),
            "temporal_flickering",
            -0.07,
        ),
    )
    found = rows(report)
    assert [found[label].result for label in found] == ["better", "worse", "not worse"]
    assert set(found) == {
        "temporal_flickering on domain",
        "temporal_flickering on trigger_free, off_domain",
        "temporal_flickering on trigger_free, off_domain, train_caption",
    }
    assert "temporal_flickering on trigger_free, off_domain by 0.07" in report.verdict.headline
    assert len({row.sentence for row in found.values()}) == 3


def test_a_ceiling_is_over_training_captions_as_well_and_each_video_counts():
    gate = {"primaries": ["heldout_loss"], "ceilings": [{"metric": "brightness", "limit": 120.0}]}
    assert judged(gate).verdict.outcome == "PROMOTE"

    def bright(arm):
        return moved(arm, ("diamond",), "brightness", 30.0)

    report = judged(gate, bright)
    assert report.verdict.outcome == "REJECT"
    gate["ceilings"][0]["groups"] = ["domain"]
    assert judged(gate, bright).verdict.outcome == "PROMOTE"


def held(value, clips=40):
    """What so many held-out clips reach, all but one of them."""
    return Limit(value=value, clips=clips, above=1)


def test_over_what_held_out_clips_reach_some_prompts_lie_by_chance():
    """One more than chance allows breaks the ceiling; two videos of a prompt are one."""
    gate = {"primaries": ["heldout_loss"], "ceilings": [{"metric": "brightness"}]}
    ids = [prompt["id"] for prompt in grouped(gate=gate)["prompts"]]
    limits = {"brightness": held(110.0, clips=100)}
    allowed = allowed_over(2 * len(ids), clips=100, above=1, confidence=0.95)
    assert 0 < allowed < len(ids)
    for over, result in ((allowed, "under limit"), (allowed + 1, "over limit")):
        bright = partial(moved, prompts=ids[:over], metric="brightness", change=30.0)
        verdict = judged(gate, bright, limits=limits).verdict
        (row,) = [row for row in verdict.comparisons if row.role == "ceiling"]
        assert row.result == result
        assert (row.chance.over, row.chance.allowed, row.chance.clips) == (over, allowed, 100)
        assert f"{over} of {len(ids)} prompts over 110" in row.sentence
        assert f"chance allows {allowed}" in row.sentence
    assert verdict.outcome == "REJECT"
    assert f"and chance allows {allowed}" in verdict.headline
    few = judged(gate, limits={"brightness": held(110.0, clips=2)}).verdict
    assert "declare a limit" in " ".join(few.reasons)


def test_a_ceiling_without_a_limit_takes_what_was_measured_or_stays_open():
    gate = {"primaries": ["heldout_loss"], "ceilings": [{"metric": "brightness"}]}
    report = judged(gate, limits={"brightness": held(110.0), "contrast": held(5.0)})
    assert report.verdict.outcome == "PROMOTE"
    assert rows(report)["brightness"].limit == 110.0
    assert report.limits == {"brightness": 110.0, "contrast": 5.0}
    assert judged(gate, limits={"brightness": held(90.0)}).verdict.outcome == "REJECT"
    unknown = judged(gate).verdict
    assert unknown.outcome == "HOLD"
    assert "undecided on brightness" in unknown.headline
    assert "which was not measured" in " ".join(unknown.reasons)
    assert "limits" in unknown.next_step
    declared = {
        "primaries": ["heldout_loss"],
        "ceilings": [{"metric": "brightness", "limit": 90.0}],
    }
    assert judged(declared, limits={"brightness": held(110.0)}).verdict.outcome == "REJECT"


def test_yardsticks_are_those_of_all_prompts_whichever_are_compared():
    gate = guarding(CALM, ("motion_magnitude",), ("motion_magnitude", "trigger_free", "off_domain"))
    guards = [row for row in judged(gate).verdict.comparisons if row.role == "guard"]
    suite = suite_of(**grouped(gate=gate))
    seeds = np.array([video.values["motion_magnitude"] for video in arm_of(suite).videos])
    assert [row.limit for row in guards] == pytest.approx(
        [np.sqrt(seeds.reshape(5, 2).var(axis=1, ddof=1).mean())] * 2
    )


def readings(values, metric="diversity_luma"):
    return tuple(
        Reading(metric=metric, unit=unit, draw=draw, value=value)
        for unit, drawn in values.items()
        for draw, value in enumerate(drawn)
    )


def test_a_metric_of_prompts_is_primary_guard_and_ceiling_like_any_other():
    old = readings({name: (0.30 + n / 50,) for n, name in enumerate(GROUPS)})
    new = readings({name: (0.35 + n / 48,) for n, name in enumerate(GROUPS)})
    units = np.array([0.30, 0.32, 0.34, 0.36, 0.38])
    gate = {
        "primaries": ["diversity_luma"],
        "guards": [{"metric": "diversity_luma", "groups": ["trigger_free", "off_domain"]}],
        "ceilings": [{"metric": "diversity_luma", "limit": 0.5}],
    }
    report = judged(gate, readings=(old, new))
    assert report.verdict.outcome == "PROMOTE", report.verdict
    primary, guard, ceiling = (row for row in report.verdict.comparisons if row.role != "info")
    assert primary.per == guard.per == ceiling.per == "prompt"
    assert primary.yardstick == pytest.approx(units.std(ddof=1))
    assert guard.limit == pytest.approx(primary.yardstick)
    assert "no prompt may exceed 0.5" in ceiling.sentence
    assert len(report.readings) == 10
    lower = judged(gate, readings=(new, old))
    assert lower.verdict.outcome == "REJECT"


def test_draws_of_a_prompt_are_averaged_first():
    metric = "base_drift"
    old = readings({"ring": (0.0, 0.0), "cross": (0.0, 0.0)}, metric)
    new = readings({"ring": (0.1, 0.3), "cross": (0.2, 0.4)}, metric)
    gate = {"primaries": ["heldout_loss"], "guards": [{"metric": metric, "margin": 0.9}]}
    report = judged(gate, readings=(old, new))
    row = rows(report)["base_drift on trigger_free, off_domain"]
    assert row.effect.mean == pytest.approx(-0.25)
    assert row.yardstick is None  # of the base it is zero, so only a margin in its unit can hold
    assert row.result == "not worse"
    del gate["guards"][0]["margin"]
    assert rows(judged(gate, readings=(old, new)))[row.label].result == "undecided"


def test_a_primary_must_know_every_prompt():
    values = readings({"circle": (0.3,)})
    report = judged({"primaries": ["diversity_luma"]}, readings=(values, values))
    assert report.verdict.outcome == "HOLD"
    assert "diversity_luma was not measured on square" in report.verdict.headline


def test_arms_with_metrics_of_different_prompts_are_invalid():
    old, new = (readings({name: (0.3,), "ring": (0.4,)}) for name in ("circle", "square"))
    report = judged({"primaries": ["heldout_loss"]}, readings=(old, new))
    assert report.verdict.outcome == "INVALID"
    assert "have diversity_luma of different prompts" in report.verdict.headline


def test_what_could_have_been_found_is_the_noncentral_t_of_what_was_seen():
    rng = np.random.default_rng(5)
    noise = dict(zip(("circle", "square"), rng.normal(0, 0.02, 2), strict=True))
    noise |= {"ring": 0.01, "cross": -0.02}

    def change(arm):
        for name, value in noise.items():
            arm = moved(arm, (name,), "temporal_flickering", value)
        return arm

    gate = {**CALM, "guards": [{"metric": "motion_magnitude"}]}
    report = judged(gate, change)
    assert report.verdict.outcome == "HOLD"
    for row in report.verdict.comparisons:
        per = row.effect.high - row.effect.mean
        error = per / stats.t.ppf(row.effect.confidence, row.effect.units - 1)
        shift = row.detectable / error
        critical = stats.t.ppf(row.effect.confidence, row.effect.units - 1)
        power = stats.nct.sf(critical, row.effect.units - 1, shift)
        assert power == pytest.approx(0.8, abs=1e-4)
    (primary,) = [row for row in report.verdict.comparisons if row.role == "primary"]
    assert report.verdict.detectable == pytest.approx(primary.detectable / primary.yardstick)
    (told,) = [reason for reason in report.verdict.reasons if "in 80% of evaluations" in reason]
    assert told.startswith("2 prompts that scatter like these find a true effect of")


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (CALM, 'gate.primaries[0] = "temporal_flickering" is measured on prompts of domain, of '),
        (CALM, "of which there are 1; give the suite 2 or more"),
        (
            guarding(HELDOUT, ("contrast", "off_domain")),
            '= "contrast" is measured on prompts of off_domain, of which there are 0',
        ),
        (
            guarding(HELDOUT, ("contrast", "domain")),
            'gate.guards[0].metric = "contrast" is measured on prompts of domain, of which there',
        ),
        (
            guarding(HELDOUT, ("base_drift", "domain")),
            "is measured on prompts of trigger_free, off_domain alone, of which there are 0",
        ),
        (
            guarding(VARIED, ("heldout_loss", "domain")),
            '= ["domain"] is of prompts, and the metric is measured on held-out clips',
        ),
        (
            HELDOUT | {"ceilings": [{"metric": "heldout_loss"}]},
            'gate.ceilings[0].metric = "heldout_loss" is not measured on videos',
        ),
        (
            guarding(HELDOUT, ("contrast",), ("contrast", "off_domain", "domain", "trigger_free")),
            'gate.guards.metric = "contrast" stands there 2 times',
        ),
        (
            guarding(HELDOUT, ("contrast", "trigger_free", "trigger_free")),
            'gate.guards[0].groups = "trigger_free" stands there 2 times',
        ),
        (
            guarding(HELDOUT, ("heldout_loss",)),
            'gate.guards = "heldout_loss" is a primary as well',
        ),
        (
            guarding(VARIED, ("diversity_luma",)),
            "is a primary as well; keep it in one of the two, or guard it on other groups",
        ),
    ],
)
def test_what_a_rule_can_never_decide_is_refused_when_the_suite_is_read(gate, said):
    document = grouped(
        {"circle": "domain", "ring": "trigger_free", "cross": "trigger_free"}, gate=gate
    )
    told = "\n".join(str(problem) for problem in suite_problems(document))
    assert said in told, told


def test_faulty_prompts_are_told_without_guesses_at_their_groups():
    document = grouped({"circle": "domain"}, gate={"primaries": ["temporal_flickering"]})
    document["prompts"].append({"id": "Bad name", "prompt": "x"})
    told = "\n".join(str(problem) for problem in suite_problems(document))
    assert "prompts[1].id" in told
    assert "of which there are" not in told


def test_a_primary_may_be_guarded_elsewhere():
    guard = {"metric": "temporal_flickering", "groups": ["trigger_free", "off_domain"]}
    assert suite_problems(grouped(gate={**CALM, "guards": [guard]})) == []
