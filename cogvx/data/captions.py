"""Captions: one form for all texts that mean the same, and which texts are none."""

import re
import unicodedata

from cogvx.data.manifest import Fault

# Control characters and halves of surrogate pairs: signs of a broken export, never of a sentence.
_BROKEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# The model reads 226 tokens, a sentence or two, and what is longer is counted and cut. No sentences
# this long were meant as a caption.
_LONGEST = 8000


def normalise_caption(text: str) -> str:
    """One form for texts that mean the same to the tokenizer: NFC, single spaces, no ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def caption_fault(text: object) -> Fault | None:
    """What keeps a value, as it stood in a document, from being a caption."""
    if not isinstance(text, str):
        found = "missing" if text is None else f"no text but a {type(text).__name__}"
        return Fault(reason="caption", detail=f"its caption is {found}")
    normal = normalise_caption(text)
    if not normal:
        return Fault(reason="caption", detail="its caption is empty")
    if len(normal) > _LONGEST:
        detail = (
            f"its caption has {len(normal)} characters, more than {_LONGEST}; the model reads 226"
            " tokens, so describe the clip in a sentence or two"
        )
        return Fault(reason="caption", detail=detail)
    broken = _BROKEN.search(normal)
    if broken is not None:
        detail = (
            f"its caption holds the character U+{ord(broken[0]):04X}; save it as plain UTF-8 text"
        )
        return Fault(reason="caption", detail=detail)
    return None
