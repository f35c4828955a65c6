"""Which record a person means: by the name of its clip, or by its key or the beginning of it."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cogvx.cache.keys import ImageKey, LatentKey, PromptKey
from cogvx.cache.plan import Identities, latent_key
from cogvx.data.manifest import Manifest
from cogvx.errors import ConfigError, IntegrityError
from cogvx.housekeeping.names import RECORDS, name_of
from cogvx.recipe import Recipe
from cogvx.shapes import VideoSize
from cogvx.store import ObjectStore

AnyKey = LatentKey | ImageKey | PromptKey

_BEGINNING = re.compile("[0-9a-f]{6,64}", re.ASCII)
_SHOWN = 5


@dataclass(frozen=True)
class Found:
    """A record's place; `others` are further windows of the clip that was named."""

    path: str
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The record's key."""
        return name_of(self.path)


def find_record(
    what: str, *, manifest: Manifest, recipe: Recipe, ids: Identities, store: ObjectStore
) -> Found:
    """The record of a clip's first window, or the one whose key begins like this.

    Args:
        what: A clip's key in the dataset, or at least six digits of a record's key.
        manifest: The clips that are known.
        recipe: Says how they are encoded.
        ids: What encodes them.
        store: Where records lie.

    Raises:
        ConfigError: Nothing is meant, several records are, or the clip is not encoded yet.
    """
    windows = [clip for clip in manifest.clips if clip.key == what]
    if windows:
        paths = [latent_key(window, recipe, ids).path for window in windows]
        if store.info(paths[0]) is None:
            raise ConfigError(
                f"{what} is not encoded yet for this recipe; run `cogvx cache` with it first"
            )
        return Found(paths[0], tuple(name_of(path) for path in paths[1:]))
    if _BEGINNING.fullmatch(what):
        return _by_key(what, store)
    closest = difflib.get_close_matches(what, {clip.key for clip in manifest.clips}, n=_SHOWN)
    hint = f"; closest: {', '.join(sorted(closest))}" if closest else ""
    raise ConfigError(
        f'"{what}" is neither a clip of {manifest.dataset} nor the beginning of a key{hint}'
    )


def key_from(label: Mapping[str, Any], name: str) -> AnyKey:
    """The key of a record, rebuilt from what its label says that it was made from.

    Raises:
        IntegrityError: Another version of cogvx made it, from other things than this one knows.
    """
    made = label.get("made_from")
    try:
        key = _rebuild(made) if isinstance(made, dict) else None
    except (TypeError, KeyError):
        key = None
    if key is None or key.digest != name:
        raise IntegrityError(
            f"record {name} says that it was made from {made}, which this version of cogvx does "
            "not know; look at it with the version that made it"
        )
    return key


def _rebuild(made: dict[str, Any]) -> AnyKey:
    if "text" in made:
        return PromptKey(**made)
    if "window" in made:
        return ImageKey(**{**made, "window": _rebuild(made["window"])})
    return LatentKey(**{**made, "size": VideoSize(**made["size"])})


def _by_key(what: str, store: ObjectStore) -> Found:
    prefixes = [f"records/{kind}/{what[:2]}/{what}" for kind in RECORDS]
    found = [entry.key for prefix in prefixes for entry in store.entries(prefix)]
    if not found:
        raise ConfigError(f"no record in {store.url} has a key that begins with {what}")
    if len(found) > 1:
        shown = ", ".join(name_of(key) for key in found[:_SHOWN])
        raise ConfigError(f"{len(found)} keys begin with {what}: {shown}; give more digits")
    return Found(found[0])
