"""What the captions say: their commonest words, and captions that say little or the same."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cogvx.data.manifest import Clip

# Letters with their marks, digits, and what joins them inside a word; every script has letters.
_WORD = re.compile(r"\w+(?:['’\-]\w+)*")

# Words that every English caption has, whatever it shows.
_FILLERS = """
a an and are as at be by for from has have he her his in into is it its of off on onto or over she
that the their them then there they this through to under up upon was were which while who with
"""

# Thai, Lao, Khmer, and what China and Japan write: no spaces stand between words there.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_FEWEST_UNSPACED = 6

# Fewer words than this cannot say what is to be seen and what happens.
_FEWEST_WORDS = 3


@dataclass(frozen=True)
class WordCount:
    """How many captions hold a word, however often."""

    word: str
    captions: int


@dataclass(frozen=True)
class Repeated:
    """A caption that several clips share."""

    caption: str
    keys: tuple[str, ...]


def common_words(captions: Sequence[str], count: int) -> tuple[WordCount, ...]:
    """The `count` commonest words without fillers, the commonest first; letter case is ignored."""
    fillers = set(_FILLERS.split())
    found: Counter[str] = Counter()
    for caption in captions:
        found.update(set(_words(caption)) - fillers)
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return tuple(WordCount(word, captions) for word, captions in ordered[:count])


def repeated_captions(clips: Sequence[Clip]) -> tuple[Repeated, ...]:
    """Captions that stand at several clips, the commonest first; letter case is ignored."""
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.caption.casefold(), []).append(clip)
    shared = sorted((g for g in groups.values() if len(g) > 1), key=lambda g: (-len(g), g[0].key))
    return tuple(Repeated(group[0].caption, tuple(c.key for c in group)) for group in shared)


def meagre_captions(clips: Sequence[Clip]) -> tuple[Clip, ...]:
    """Clips of which the caption has one or two words, or as few letters without spaces."""
    return tuple(clip for clip in clips if _is_meagre(clip.caption))


def _words(caption: str) -> list[str]:
    return _WORD.findall(caption.casefold())


def _is_meagre(caption: str) -> bool:
    return (
        len(_words(caption)) < _FEWEST_WORDS and len(_UNSPACED.findall(caption)) < _FEWEST_UNSPACED
    )
