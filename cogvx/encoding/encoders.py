"""The two encoders of a base model, not yet loaded."""

from dataclasses import dataclass
from pathlib import Path

from cogvx.cache.plan import Identities
from cogvx.variants import BaseFacts


@dataclass(frozen=True)
class Encoders:
    """The folder that they lie in, what they are, where they run."""

    folder: Path
    facts: BaseFacts
    ids: Identities
    device: str = "cpu"
