"""What encoders read is short, and what was trained on is found however it is written."""

import pytest

from cogvx.evaluation.suite import PromptConfig
from cogvx.evaluation.suite_texts import (
    about_tokens,
    overlap_problems,
    scored_text,
    suite_warnings,
    words_of,
)
from tests.evaluation.builders import suite_of


def prompt_of(text, **more):
    return PromptConfig.model_validate({"id": "a", "prompt": text, **more})


@pytest.mark.parametrize(
    ("prompt", "scored"),
    [
        ("A horse gallops along a beach. The sky is red.", "A horse gallops along a beach."),
        ("A horse gallops\nalong a  beach", "A horse gallops along a beach"),
        ("Mr. Smith walks home. It rains.", "Mr. Smith walks home."),
        ("A lens of 1.5 m falls over! It breaks.", "A lens of 1.5 m falls over!"),
        ("一匹马在海滩上奔跑。天空是红色的。", "一匹马在海滩上奔跑。"),
    ],
)
def test_encoders_read_the_first_sentence_by_default(prompt, scored):
    assert scored_text(prompt_of(prompt)) == scored
    assert scored_text(prompt_of(prompt, eval_text="a  horse")) == "a horse"


# Common words are one token each, and so are digits and marks; two stand at the ends.
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a photo of a cat", 7),
        ("a red train crosses a viaduct over a green valley, filmed from a drone", 17),
        ("two dogs, three cats and 12 birds.", 12),
    ],
)
def test_tokens_are_counted_by_the_rule_of_thumb(text, tokens):
    assert about_tokens(text) == tokens


def test_texts_that_encoders_would_cut_are_warned_of():
    long = " ".join(["a red horse runs along the wide beach"] * 11)
    suite = suite_of(
        prompts=[
            {"id": "long", "prompt": long},
            {"id": "middle", "prompt": "a horse " * 35},
            {"id": "short", "prompt": f"A red horse runs fast. {long}"},
            {"id": "said", "prompt": long + " now", "eval_text": "a red horse"},
        ]
    )
    first, second = suite_warnings(suite)
    assert 'prompts["long"].eval_text has about' in str(first)
    assert "CLIP reads 77" in str(first)
    assert 'prompts["middle"]' in str(second)
    assert "SigLIP reads 64" in str(second)


def test_a_single_seed_to_decide_on_is_warned_of():
    (warning,) = suite_warnings(suite_of(seeds=[1]))
    assert "use two or more" in str(warning)
    assert suite_warnings(suite_of(seeds=[1], split="dev")) == []
    own = [{"id": "a", "prompt": "a ring", "seeds": [1, 2]}]
    assert suite_warnings(suite_of(seeds=[1], prompts=own)) == []


@pytest.mark.parametrize(
    "caption",
    [
        "a red circle moves left",
        "A red circle moves left.",
        "  A RED circle,\tmoves left ! ",
        "“A red circle” — moves left…",
        "a red ｃircle moves left",  # a full-width letter
    ],
)
def test_the_same_words_are_the_same_caption(caption):
    (problem,) = overlap_problems(suite_of(), [caption])
    assert 'prompts["circle"]' in str(problem)


@pytest.mark.parametrize(
    "caption", ["a red circle moves", "left moves a red circle", "a red circle moves leftwards"]
)
def test_a_paraphrase_is_another_caption(caption):
    assert overlap_problems(suite_of(), [caption]) == []


def test_marks_that_make_other_words_are_kept():
    assert words_of("किला") != words_of("कल")
    assert words_of("pêche") != words_of("peche")
    assert words_of("pêche") == words_of("pe\u0302che")
    assert words_of("!?") == "!?" != words_of("...")
