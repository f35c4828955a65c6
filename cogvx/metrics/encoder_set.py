"""The networks of an evaluation, opened together, all that is wrong with them told at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cogvx.errors import ConfigError
from cogvx.metrics.aesthetic import Aesthetic, open_aesthetic
from cogvx.metrics.encoder_files import SETTING, TEXT_KINDS, encoder_problems, resolve_encoder
from cogvx.metrics.encoders import Encoder, Kind, open_encoder
from cogvx.metrics.text import TextEncoder, TextKind, open_text_encoder
from cogvx.model.hashes import FileHashes


@dataclass(frozen=True)
class EncoderSet:
    """Networks by kind: those that see, those that read, and the head that judges beauty."""

    images: Mapping[str, Encoder]
    texts: Mapping[str, TextEncoder]
    aesthetic: Aesthetic | None = None

    @property
    def identities(self) -> dict[str, str]:
        """What each network is, weights, preparation and device; for a report's provenance."""
        found = {kind: encoder.identity for kind, encoder in self.images.items()}
        found |= {f"{kind} texts": encoder.identity for kind, encoder in self.texts.items()}
        return found if self.aesthetic is None else found | {"aesthetic": self.aesthetic.identity}


def open_encoder_set(
    named: Mapping[str, str],
    *,
    where: str = SETTING,
    device: str = "cpu",
    texts: bool = True,
    hashes: FileHashes | None = None,
) -> EncoderSet:
    """Load networks, downloading those of the hub that are not on this machine.

    Args:
        named: Folders, or hub ids with a commit, by kind.
        where: What stands before a kind in messages.
        device: Where they run.
        texts: Open the reading halves as well.
        hashes: Knows what files hashed to before.

    Raises:
        ConfigError: With everything that is wrong.
        TransientError: The hub is there but too busy to answer.
    """
    if problems := encoder_problems(named, where=where, texts=texts):
        raise ConfigError("encoders", problems)
    paths = {kind: resolve_encoder(kind, name, where=where) for kind, name in named.items()}
    images = {
        kind: open_encoder(cast("Kind", kind), path, device=device, hashes=hashes)
        for kind, path in paths.items()
        if kind != "aesthetic"
    }
    readers = {
        kind: open_text_encoder(cast("TextKind", kind), path, device=device, hashes=hashes)
        for kind, path in paths.items()
        if texts and kind in TEXT_KINDS
    }
    return EncoderSet(images, readers, _head(paths, images, device, hashes))


def _head(
    paths: Mapping[str, Path],
    images: Mapping[str, Encoder],
    device: str,
    hashes: FileHashes | None,
) -> Aesthetic | None:
    if "aesthetic" not in paths:
        return None
    return open_aesthetic(paths["aesthetic"], images.get("clip"), device=device, hashes=hashes)
