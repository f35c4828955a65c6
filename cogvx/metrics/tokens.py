"""How many tokens a text has for CLIP or SigLIP2, by the network's own vocabulary; loads no torch.

SigLIP2 was trained on small letters, and always sees 64 tokens: what a text lacks is filled up.
CLIP reads from left to right and stops at the end mark, so it needs no filling.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cogvx.errors import ConfigError, Problem
from cogvx.metrics.encoder_files import TOKENIZER
from cogvx.section import shown_text

_LIMITS = {"clip": 77, "siglip2": 64}


@dataclass(frozen=True)
class Tokens:
    """A vocabulary, and how many tokens the network reads, the marks at the ends included."""

    kind: str
    tokenizer: Tokenizer
    limit: int
    filler: int | None

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, filled up where the network wants it; not cut."""
        shown = text.lower() if self.kind == "siglip2" else text
        ids = list(self.tokenizer.encode(shown).ids)
        filling = [] if self.filler is None else [self.filler] * (self.limit - len(ids))
        return ids + filling

    def problem(self, text: str, *, where: str) -> Problem | None:
        """What is wrong with a text that is too long."""
        count = len(self.ids(text))
        if count <= self.limit:
            return None
        wrong = f"has {count} tokens, of which {self.kind} reads {self.limit}"
        return Problem(where, shown_text(text), wrong, "say in one short sentence what is seen")


def read_tokens(kind: str, folder: Path, *, where: str) -> Tokens:
    """Read a network's vocabulary.

    Raises:
        ConfigError: The folder has none, or one that cannot be read.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        wrong = f"has no {TOKENIZER}, which texts need"
        raise ConfigError(str(Problem(where, shown_text(str(folder)), wrong)))
    document, config = _read_json(path), _read_json(folder / "config.json")
    try:
        tokenizer = Tokenizer.from_str(json.dumps(document))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ConfigError(f"{path} is no tokenizer: {error}") from error
    # a text is neither cut nor filled up behind our back
    tokenizer.no_truncation()
    tokenizer.no_padding()
    text, padding = _part(config, "text_config") or config, _part(document, "padding")
    limit = int(text.get("max_position_embeddings", _LIMITS[kind]))
    filler = int(padding.get("pad_id", text.get("pad_token_id", 0)))
    return Tokens(kind, tokenizer, limit, filler if kind == "siglip2" else None)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no table")
    return found


def _part(document: dict[str, Any], name: str) -> dict[str, Any]:
    """A table of a document; empty where there is none."""
    found = document.get(name)
    return found if isinstance(found, dict) else {}
