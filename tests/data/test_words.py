"""Words are counted in every script; captions that say nothing are found."""

import pytest

from cogvx.data.words import common_words, meagre_captions, repeated_captions
from tests.pages.datasets import clip_of


def test_a_word_counts_once_in_a_caption_and_in_any_letter_case() -> None:
    words = common_words(["Dog, dog! A DOG.", "the dog's tail", "Über über dem Fluss"], 3)
    assert [(word.word, word.captions) for word in words] == [("dem", 1), ("dog", 1), ("dog's", 1)]
    (dog,) = common_words(["a dog", "The Dog"], 5)
    assert (dog.word, dog.captions) == ("dog", 2)


def test_small_words_are_left_out_and_other_scripts_are_not() -> None:
    words = {word.word for word in common_words(["and then the волна of 夕暮れ", "נהר"], 9)}
    assert words == {"волна", "夕暮れ", "נהר"}


def test_shared_captions_are_found_however_they_are_written() -> None:
    clips = [clip_of(1, "A dog runs"), clip_of(2, "a dog RUNS"), clip_of(3, "A cat runs")]
    (shared,) = repeated_captions(clips)
    assert (shared.caption, shared.keys) == ("A dog runs", ("00001.mp4", "00002.mp4"))
    assert repeated_captions(clips[1:]) == ()


@pytest.mark.parametrize(
    ("caption", "is_meagre"),
    [
        ("dog", True),
        ("dog running", True),
        ("...", True),
        ("a dog runs", False),
        ("犬", True),
        ("夕暮れの海を犬が走る", False),
        ("สุนัขวิ่งบนชายหาด", False),
    ],
)
def test_captions_of_one_or_two_words_are_meagre(caption: str, is_meagre: bool) -> None:
    clip = clip_of(1, caption)
    assert meagre_captions([clip]) == ((clip,) if is_meagre else ())
