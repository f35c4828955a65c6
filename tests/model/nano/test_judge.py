"""The judge without learned weights is right about clips whose scenes are known."""

import numpy as np
import pytest

from cogvx.model.nano.judge import CHANCE, TRAITS, Reading, read, right_traits
from cogvx.model.nano.world import COLOURS, MOTIONS, SHAPES, Scene, draw_scene, render

CLIPS = 200


@pytest.fixture(scope="module")
def readings() -> list[tuple[Scene, Reading, Reading]]:
    """Scenes, their clips read as they are, and read through noise and blur."""
    rng = np.random.default_rng(0)
    triples = []
    for number in range(CLIPS):
        scene = draw_scene(77, number)
        rgb_fhwc = render(scene, frames=9, size=48)
        blurred = (rgb_fhwc + np.roll(rgb_fhwc.astype(float), 1, axis=1)) / 2
        poor = np.clip(blurred + rng.normal(0, 8, rgb_fhwc.shape), 0, 255).astype(np.uint8)
        triples.append((scene, read(rgb_fhwc), read(poor)))
    return triples


@pytest.mark.parametrize("trait", TRAITS)
def test_true_clips_are_read_rightly(
    trait: str, readings: list[tuple[Scene, Reading, Reading]]
) -> None:
    assert np.mean([right_traits(clear, scene)[trait] for scene, clear, _ in readings]) > 0.97
    assert np.mean([right_traits(poor, scene)[trait] for scene, _, poor in readings]) > 0.9


@pytest.mark.parametrize("trait", TRAITS)
def test_clips_of_other_scenes_are_right_by_chance_only(
    trait: str, readings: list[tuple[Scene, Reading, Reading]]
) -> None:
    shifted = [*readings[1:], readings[0]]
    pairs = zip(readings, shifted, strict=True)
    share = np.mean([right_traits(clear, scene)[trait] for (scene, *_), (_, clear, _) in pairs])
    assert share == pytest.approx(CHANCE[trait], abs=0.1)


def test_chance_is_one_of_the_kinds() -> None:
    assert {
        "background": 1 / len(COLOURS),
        "colour": 1 / len(COLOURS),
        "motion": 1 / len(MOTIONS),
        "shape": 1 / len(SHAPES),
    } == CHANCE


def test_an_empty_clip_shows_nothing_but_its_background() -> None:
    empty = np.full((9, 48, 48, 3), COLOURS["blue"], dtype=np.uint8)
    assert read(empty) == Reading(background="blue", colour=None, motion=None, shape=None)


def test_noise_and_black_are_read_without_a_fault() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 48, 48, 3)).astype(np.uint8)
    assert read(noise).background in COLOURS
    assert read(np.zeros((9, 48, 48, 3), dtype=np.uint8)).background == "black"
