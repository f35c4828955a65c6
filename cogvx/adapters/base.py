"""The base that an adapter is for, as far as this machine knows it.

Its configuration decides what an adapter must hold, so a hub id that is not on this machine will
do; then nobody can say which bytes the adapter is for, and its card does not.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from cogvx.errors import ConfigError, Problem
from cogvx.model.identity import BASE_PARTS, commit_of, fingerprint
from cogvx.section import shown_text
from cogvx.variants import BaseFacts, published_facts, read_facts

_WEIGHTS = ("transformer", "vae", "text_encoder")


@dataclass(frozen=True)
class Base:
    """What an adapter is converted for; the fingerprint is None when only the kind is known."""

    path: str
    revision: str | None
    facts: BaseFacts
    fingerprint: str | None


def find_base(path: str, revision: str | None = None) -> Base:
    """Look at a base model's configuration, on this machine or in the table of published ones.

    Nothing is downloaded; the weights of a folder are read once for their fingerprint.

    Args:
        path: A diffusers folder, or a hub id such as zai-org/CogVideoX-5b.
        revision: Of the hub repository.

    Raises:
        ConfigError: It is neither, or no CogVideoX.
    """
    folder = _folder(path)
    if folder is not None and revision is not None:
        wrong = "means nothing for a folder"
        raise ConfigError(str(Problem("--revision", revision, wrong, "leave it out")))
    folder = folder or _downloaded(path, revision)
    if folder is None:
        facts = published_facts(path)
        if facts is None:
            wrong = "is neither a folder on this machine nor a published CogVideoX"
            use = "for example zai-org/CogVideoX-5b"
            raise ConfigError(str(Problem("--base", shown_text(path), wrong, use)))
        return Base(path, revision, facts, None)
    facts = read_facts(folder)
    name = fingerprint(folder, BASE_PARTS) if _is_whole(folder) else None
    return Base(path, commit_of(folder) or revision, facts, name)


def _is_whole(folder: Path) -> bool:
    """Whether all weights are there: half a download has a fingerprint of its own, and no use."""
    return all((folder / part).is_dir() for part in BASE_PARTS) and all(
        _has_weights(folder / part) for part in _WEIGHTS
    )


def _has_weights(part: Path) -> bool:
    indices = list(part.glob("*.safetensors.index.json"))
    if not indices:
        return any(part.glob("*.safetensors"))
    try:
        named = {
            name
            for path in indices
            for name in json.loads(path.read_bytes())["weight_map"].values()
        }
        return all((part / str(name)).is_file() for name in named)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{indices[0]} names no files of weights") from error


def _folder(path: str) -> Path | None:
    try:
        folder = Path(path).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, nobody's home
        return None


def _downloaded(hub_id: str, revision: str | None) -> Path | None:
    """The configuration of a hub model on this machine, if it was ever downloaded."""
    try:
        folder = Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if (folder / "transformer" / "config.json").is_file() else None
