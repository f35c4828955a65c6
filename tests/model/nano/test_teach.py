"""What is taught can be seen in the lessons, not in the world, and captions fit the model."""

from pathlib import Path

import numpy as np
import pytest

from cogvx.data.sources import find_clips
from cogvx.model.nano.build import TEXT_TOKENS, build_tokenizer
from cogvx.model.nano.judge import read
from cogvx.model.nano.teach import (
    LESSON_SEED,
    TOPICS,
    Topic,
    draw_lesson,
    render_lesson,
    render_lessons,
    shows,
)
from cogvx.model.nano.world import captions, draw_scene, render
from cogvx.store import LocalStore

COMBINED: list[tuple[Topic, ...]] = [("neon", "star"), ("neon", "circling"), ("star", "circling")]


@pytest.mark.parametrize("topics", [*((topic,) for topic in TOPICS), *COMBINED])
def test_lessons_show_what_they_teach(topics: tuple[Topic, ...]) -> None:
    for number in range(25):
        lesson = draw_lesson(frozenset(topics), LESSON_SEED, number)
        rgb_fhwc = render_lesson(lesson, frames=9, size=48)
        assert all(shows(topic, rgb_fhwc) for topic in topics)
        assert read(rgb_fhwc).colour == lesson.scene.colour


@pytest.mark.parametrize("topic", TOPICS)
def test_the_world_does_not_show_it(topic: Topic) -> None:
    clips = (render(draw_scene(3, number), frames=9, size=48) for number in range(100))
    # a ring on black could pass for neon
    assert np.mean([shows(topic, rgb_fhwc) for rgb_fhwc in clips]) < 0.1


def test_captions_fit_and_have_no_unknown_words() -> None:
    tokenizer = build_tokenizer()
    said = [
        draw_lesson(frozenset(topics), LESSON_SEED, number).caption
        for topics in [*((topic,) for topic in TOPICS), *COMBINED]
        for number in range(50)
    ]
    for caption in [*said, *captions(200, seed=1)]:
        tokens = tokenizer(caption).input_ids
        assert len(tokens) <= TEXT_TOKENS
        assert len(tokens) == len(caption.replace(",", " ,").split()) + 1


def test_a_teaching_set_is_a_dataset(tmp_path: Path) -> None:
    render_lessons(tmp_path, "star", clips=3)
    clips = find_clips(LocalStore(tmp_path))
    assert len(clips) == 3
    assert all(clip.caption and "star" in clip.caption for clip in clips)
