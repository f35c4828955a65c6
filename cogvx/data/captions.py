"""Captions: one form for all texts that mean the same, and which texts are none."""

import unicodedata

from cogvx.data.manifest import Fault

# Control characters and halves of surrogate pairs: signs of a broken export, never of a sentence.
_BROKEN = ("Cc", "Cs")
# The model reads 226 tokens, a sentence or two, and the rest in silence not at all. There is no
# tokenizer here to count with, but no sentences this long fit.
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
    broken = next((letter for letter in normal if unicodedata.category(letter) in _BROKEN), None)
    if broken is not None:
        detail = f"its caption holds the character U+{ord(broken):04X}; save it as plain UTF-8 text"
        return Fault(reason="caption", detail=detail)
    return None
