"""What is counted of the base against itself: exact shares, seed SDs, seeds that never meet."""

import numpy as np
import pytest
from scipy import stats

from cogvx.evaluation.aa import (
    AaReport,
    AaRun,
    as_if_under,
    report_on,
    seeds_of_side,
    share_of,
    spreads_of,
    with_seeds,
)
from cogvx.evaluation.documents import Neighbour
from cogvx.evaluation.judge import judge
from cogvx.evaluation.looks import more_seeds
from tests.evaluation.builders import arm_of, suite_document, suite_of


@pytest.mark.parametrize(("count", "runs"), [(0, 40), (1, 40), (7, 40), (40, 40)])
def test_a_share_has_clopper_and_pearsons_interval(count, runs):
    share = share_of(count, runs)
    low = stats.beta.ppf(0.025, count, runs - count + 1) if count else 0.0
    high = stats.beta.ppf(0.975, count + 1, runs - count) if count < runs else 1.0
    assert (share.low, share.high) == pytest.approx((low, high), abs=1e-9)


def test_no_two_sides_of_any_runs_share_a_seed():
    prompts = suite_document()["prompts"]
    prompts[0] |= {"seeds": [7, 8, 9]}
    suite = suite_of(prompts=prompts)
    used = [
        seed
        for run in range(50)
        for side in (0, 1)
        for seed in seeds_of_side(suite, run, side).values()
    ]
    assert len(used) == len(set(used))
    assert not set(used) & set(more_seeds(suite).all_seeds)
    assert max(used) < 2**31


def test_the_second_look_keeps_the_videos_of_the_first():
    suite = suite_of()
    wide, seeds = more_seeds(suite), seeds_of_side(suite, 3, 1)
    first, both = with_seeds(suite, seeds), with_seeds(wide, seeds)
    assert first.digest != suite.digest
    assert both.seeds[:2] == first.seeds
    assert len(set(both.seeds)) == 4


def test_an_arm_under_other_seeds_is_told_as_if_under_the_suites():
    suite = suite_of()
    seeds = seeds_of_side(suite, 0, 1)
    other = with_seeds(suite, seeds)
    arm = arm_of(other, "base")
    near = Neighbour(
        prompt="circle", seed=other.seeds[0], metric="memorisation_luma", clip="a", similarity=0.5
    )
    told = as_if_under(
        suite, arm.model_copy(update={"neighbours": (near,)}), seeds, name="base again"
    )
    assert (told.name, told.suite) == ("base again", suite.digest)
    assert {video.seed for video in told.videos} == {1, 2}
    assert told.neighbours[0].seed == 1
    reference = arm_of(suite, "base")
    found = judge(suite, model="toy", candidate=told, reference=reference, provenance={})
    assert found.verdict.outcome != "INVALID"


def runs_of(suite, count):
    found = []
    for number in range(count):
        arms = []
        for side, name in ((0, "base"), (1, "base again")):
            seeds = seeds_of_side(suite, number, side)
            losses = tuple(np.random.default_rng([number, side]).normal(1.0, 0.1, 4))
            arm = arm_of(with_seeds(suite, seeds), name, losses=losses)
            arms.append(as_if_under(suite, arm, seeds, name=name))
        verdict = judge(
            suite, model="toy", candidate=arms[1], reference=arms[0], provenance={}
        ).verdict
        found.append((arms, verdict))
    return [
        AaRun(
            of="x",
            run=number,
            verdicts=(verdict,),
            stopped_by_screen=number % 2 == 0,
            spreads=spreads_of(arms),
        )
        for number, (arms, verdict) in enumerate(found)
    ], [arms for arms, _ in found]


def test_seed_sds_are_pooled_over_arms_and_runs_as_anova_does():
    suite = suite_of(
        gate={"primaries": ["heldout_loss"], "guards": [{"metric": "motion_magnitude"}]}
    )
    runs, arms = runs_of(suite, 6)
    report = report_on(runs)
    variances = []
    for both in arms:
        for prompt in suite.prompts:
            values = [
                video.values["motion_magnitude"]
                for arm in both
                for video in arm.videos
                if video.prompt == prompt.id
            ]
            variances.append(np.var(values, ddof=1))  # all have four, so a plain mean pools them
    found = {scatter.metric: scatter for scatter in report.scatters}
    motion = found["motion_magnitude"]
    assert motion.seed_sd == pytest.approx(np.sqrt(np.mean(variances)))
    assert motion.error == pytest.approx(1 / np.sqrt(2 * 6 * 5 * 3))
    guards = [row for run in runs for row in run.verdicts[0].comparisons if row.role == "guard"]
    assert motion.margins == {"motion_magnitude": np.median([row.limit for row in guards])}
    clips = [
        np.var(
            [loss.loss for arm in both for loss in arm.heldout if loss.clip == clip][::2], ddof=1
        )
        for both in arms
        for clip in ("clip-0.mp4", "clip-1.mp4", "clip-2.mp4", "clip-3.mp4")
    ]
    assert found["heldout_loss"].seed_sd == pytest.approx(np.sqrt(np.mean(clips)))


def test_the_counts_are_of_the_runs():
    runs, _ = runs_of(suite_of(), 8)
    report = report_on(runs)
    assert report.runs == 8
    assert sum(report.outcomes.values()) == sum(report.at_first_look.values()) == 8
    assert report.false_promotions.count == sum(run.outcome == "PROMOTE" for run in runs)
    assert report.stopped_by_screen.count == 4
    assert report.second_looks == 0
    assert AaReport.model_validate_json(report.model_dump_json()) == report
    assert AaRun.model_validate_json(runs[0].model_dump_json()) == runs[0]
