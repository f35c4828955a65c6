"""Captions: one form for all texts that mean the same."""

import unicodedata


def normalise_caption(text: str) -> str:
    """One form for texts that mean the same to the tokenizer: NFC, single spaces, no ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())
