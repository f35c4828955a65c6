"""A sweep's curve is of whole means, and the weight to try follows the written rule."""

import pytest

from cogvx.evaluation.documents import ArmResult, HeldoutScore, Reading, SweepPoint, VideoScore
from cogvx.evaluation.sweep import one_seed_each, points_of, weight_to_try
from tests.evaluation.builders import suite_of


def points(losses, drifts=()):
    found = [SweepPoint(weight=w, metric="heldout_loss", value=v) for w, v in losses]
    return found + [SweepPoint(weight=w, metric="base_drift", value=v) for w, v in drifts]


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([(0, 1.0), (0.5, 0.92), (1, 0.9), (1.5, 0.95)], "1, the smallest"),
        ([(0, 1.0), (0.5, 0.908), (1, 0.9), (1.5, 0.95)], "0.5, the smallest"),
        ([(0, 1.0), (0.5, 0.95), (1, 0.905), (1.5, 0.9)], "1, the smallest"),
        ([(0, 1.0), (0.5, 0.9), (1, 0.9)], "0.5, the smallest"),
        ([(0, 1.0), (0.5, 1.1), (1, 0.99)], "1, the smallest"),
        ([(0, 1.0), (0.5, 1.0), (1, 1.2)], "none: no weight lowers"),
    ],
)
def test_the_weight_to_try_is_the_smallest_with_nine_tenths_of_the_best_gain(losses, said):
    assert weight_to_try(points(losses)).startswith(said)
    assert weight_to_try(reversed(points(losses))) == weight_to_try(points(losses))


def test_without_losses_no_weight_is_suggested():
    assert weight_to_try([]) is None
    assert weight_to_try(points([(0, 1.0)])) is None
    assert weight_to_try(points([(0.5, 1.0), (1, 0.5)])) is None
    assert weight_to_try(points([], [(0, 0.0), (1, 0.5)])) is None


def test_the_suggestion_says_what_the_last_tenth_would_cost():
    losses = [(0, 1.0), (0.75, 0.905), (1, 0.9)]
    said = weight_to_try(points(losses, [(0, 0.0), (0.75, 0.3), (1, 0.5)]))
    assert said.startswith("0.75, the smallest with nine tenths of the best gain in held-out loss")
    assert "(0.095 of 0.1 at 1, with 60% of the drift); a suggestion, which decides nothing" in said


def result_of(videos, *, faults=()):
    return ArmResult(
        name="a",
        suite="0" * 64,
        videos=tuple(
            VideoScore(prompt=prompt, seed=1, key="0" * 64, values={"contrast": value})
            for prompt, value in videos
        ),
        heldout=tuple(HeldoutScore(clip="a", timestep=t, loss=t / 1000) for t in (250, 750)),
        readings=(Reading(metric="base_drift", unit="circle", draw=125, value=0.25),),
        faults=faults,
    )


def values(found):
    return {point.metric: point.value for point in found}


def test_points_are_means_over_prompts_and_clips_and_a_missing_video_makes_none():
    whole = points_of(0.5, result_of([("circle", 1.0), ("square", 2.0)]), videos=2)
    assert {point.weight for point in whole} == {0.5}
    assert values(whole) == {"heldout_loss": 0.5, "contrast": 1.5, "base_drift": 0.25}
    partial = points_of(0.5, result_of([("circle", 1.0)]), videos=2)
    assert values(partial) == {"heldout_loss": 0.5}
    faulty = result_of([("circle", 1.0), ("square", 2.0)], faults=("a loss is not finite",))
    assert "heldout_loss" not in values(points_of(0.5, faulty, videos=2))


def test_every_prompt_keeps_the_first_of_its_seeds():
    prompts = [
        {"id": "circle", "prompt": "a circle"},
        {"id": "square", "prompt": "a square", "seeds": [9, 8]},
    ]
    suite = suite_of(prompts=prompts, seeds=[5, 6])
    whole = suite.digest
    one = one_seed_each(suite)
    assert [(prompt.id, seed) for prompt, seed in one.shots] == [("circle", 5), ("square", 9)]
    assert one.digest != whole
    assert one_seed_each(one).digest == one.digest
