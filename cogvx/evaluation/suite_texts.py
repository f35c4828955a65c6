"""What a suite's prompts say: the short text that encoders read, and which were trained on."""

import re
import unicodedata
from collections.abc import Iterable

from cogvx.data.captions import normalise_caption
from cogvx.errors import Problem
from cogvx.evaluation.suite import PromptConfig, Suite

SHORT_TOKENS, CLIP_TOKENS = 64, 77
"""What SigLIP's and CLIP's text encoders read, their two marks at the ends included."""

_END = re.compile(r"[.!?][\"')”’]*$")
_FULL_END = re.compile(r"[。！？]")  # of alphabets without spaces
_LEAST_WORDS = 4  # what ends earlier is "Mr." or "St."
_PIECE = re.compile(r"[a-z]+|\d|[^\s\w]|[^\W\d]", re.IGNORECASE | re.ASCII)
_LETTERS_PER_TOKEN = 8


def scored_text(prompt: PromptConfig) -> str:
    """What an encoder of text compares the video with: `eval_text`, or the first sentence."""
    if prompt.eval_text is not None:
        return normalise_caption(prompt.eval_text)
    whole = normalise_caption(prompt.prompt)
    full = _FULL_END.search(whole)
    if full:
        return whole[: full.end()]
    words = whole.split()
    for count, word in enumerate(words, start=1):
        if count >= _LEAST_WORDS and _END.search(word):
            return " ".join(words[:count])
    return whole


def about_tokens(text: str) -> int:
    """About how many tokens CLIP makes of a text, without its vocabulary.

    Pieces are words of eight letters, digits and marks; other alphabets count two a letter.
    """
    total = 2
    for word in text.split():
        ascii_part = "".join(char if char.isascii() else " " for char in word)
        pieces = _PIECE.findall(ascii_part)
        total += sum(-(-len(piece) // _LETTERS_PER_TOKEN) for piece in pieces)
        total += 2 * sum(not char.isascii() for char in word)
    return total


def suite_warnings(suite: Suite) -> list[Problem]:
    """What is allowed and probably not meant: texts that encoders would cut, a single seed."""
    found = []
    for prompt in suite.prompts:
        text = scored_text(prompt)
        tokens = about_tokens(text)
        if tokens > SHORT_TOKENS:
            limit = CLIP_TOKENS if tokens > CLIP_TOKENS else SHORT_TOKENS
            whose = "CLIP" if tokens > CLIP_TOKENS else "SigLIP"
            wrong = f"has about {tokens} tokens, of which {whose} reads {limit}"
            use = "say in one short sentence what must be seen"
            found.append(Problem(f'prompts["{prompt.id}"].eval_text', None, wrong, use))
    if suite.split == "gate" and any(len(suite.seeds_of(each)) < 2 for each in suite.prompts):
        wrong = "give some prompts one video only, which tells no luck from an effect"
        found.append(Problem("seeds", suite.seeds, wrong, "use two or more"))
    return found


def overlap_problems(suite: Suite, captions: Iterable[str]) -> list[Problem]:
    """Prompts that the adapter was trained on, where the group does not say so.

    A prompt that is a training caption measures memory, not skill. Texts of the same words in the
    same order are the same, whatever their case, marks and forms of letters; a paraphrase is not
    found.
    """
    known = {words_of(caption) for caption in captions}
    return [
        Problem(
            f'prompts["{prompt.id}"].prompt',
            prompt.prompt,
            "is a training caption",
            'rephrase it, or set group = "train_caption"',
        )
        for prompt in suite.prompts
        if prompt.group != "train_caption" and words_of(prompt.prompt) in known
    ]


def words_of(text: str) -> str:
    """The words of a text in one form: compatible letters, no case, no punctuation.

    Accents and vowel signs stay, as they make other words. A text of marks alone is itself.
    """
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = (char if unicodedata.category(char)[0] not in "PSZC" else " " for char in plain)
    return " ".join("".join(kept).split()) or normalise_caption(plain)
