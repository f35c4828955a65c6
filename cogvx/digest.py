"""Names made from content: canonical JSON and sha256."""

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel

_CHUNK_BYTES = 1 << 20


def canonical_json(document: object) -> bytes:
    """The one byte string for a document: keys sorted, no spaces, UTF-8, no NaN.

    Raises:
        ValueError: The document holds NaN or an infinity, which JSON does not have.
    """
    plain = document.model_dump(mode="json") if isinstance(document, BaseModel) else document
    text = json.dumps(
        plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def digest(document: object) -> str:
    """Hex sha256 of a document's canonical JSON."""
    return hashlib.sha256(canonical_json(document)).hexdigest()


def sha256_bytes(data: bytes) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            hasher.update(piece)
    return hasher.hexdigest()
