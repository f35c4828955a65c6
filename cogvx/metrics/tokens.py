"""How many tokens a text has for CLIP or SigLIP2, by the network's own vocabulary; loads no torch.

SigLIP2 was trained on small letters, one mark at the end, and always 64 tokens: what a text lacks
is filled up. Its file is used by programs that expect one or the other of it, so marks and filling
are put here. CLIP reads from left to right and stops at the end mark, so it needs no filling.
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
_SIGLIP_MARKS = ("<eos>", "<pad>")


@dataclass(frozen=True)
class Tokens:
    """A vocabulary, and how many tokens the network reads, the marks at the ends included.

    `marks` are SigLIP2's end and what it is filled up with; CLIP's are the vocabulary's affair.
    """

    kind: str
    tokenizer: Tokenizer
    limit: int
    marks: tuple[int, int] | None = None

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, filled up where the network wants it; not cut.

        Source: SigLIP2's as it was trained, which transformers' Siglip2Tokenizer writes out.
        """
        if self.marks is None:
            return list(self.tokenizer.encode(text).ids)
        end, filler = self.marks
        ids = [*self.tokenizer.encode(text.lower(), add_special_tokens=False).ids, end]
        return ids + [filler] * (self.limit - len(ids))

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
    marks = _marks_of(tokenizer, f"{where}: {path}") if kind == "siglip2" else None
    count = len(tokenizer.encode("").ids)
    if kind == "clip" and count != 2:
        raise ConfigError(f"{where}: {path} puts {count} marks around a text, and CLIP needs 2")
    text = _part(config, "text_config") or config
    return Tokens(kind, tokenizer, int(text.get("max_position_embeddings", _LIMITS[kind])), marks)


def _marks_of(tokenizer: Tokenizer, where: str) -> tuple[int, int]:
    """SigLIP2's end and filling; another vocabulary has no such marks."""
    end, filler = (tokenizer.token_to_id(name) for name in _SIGLIP_MARKS)
    if end is None or filler is None:
        raise ConfigError(f"{where} is not SigLIP2's: it lacks {' or '.join(_SIGLIP_MARKS)}")
    return end, filler


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
