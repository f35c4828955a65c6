"""Sizes that did not fit into a GPU whole, remembered in the store.

Tiled latents differ from whole ones, so a dataset should not mix them: once one clip of a size ran
out of memory, all latents of that size are encoded in tiles, for that VAE and precision, on every
machine. Removing the document takes the decision back.
"""

import re

from cogvx.digest import canonical_json, digest
from cogvx.errors import IntegrityError
from cogvx.shapes import VideoSize
from cogvx.store import ObjectStore

_NAME = re.compile(r"([0-9]{1,6})x([0-9]{1,6})x([0-9]{1,6})\.json", re.ASCII)


def tiled_sizes(store: ObjectStore, *, vae: str, dtype: str) -> tuple[VideoSize, ...]:
    """The sizes that a VAE, by its fingerprint, encodes in tiles in this precision.

    Raises:
        IntegrityError: Something else lies among the documents.
        TransientError: The store did not answer this time.
    """
    folder = _folder(vae, dtype)
    sizes = []
    for entry in store.entries(folder):
        name = _NAME.fullmatch(entry.key.removeprefix(folder))
        if name is None:
            raise IntegrityError(f"{entry.key} in {store.url} names no video size; remove it")
        sizes.append(VideoSize(*map(int, name.groups())))
    return tuple(sizes)


def mark_tiled(store: ObjectStore, size: VideoSize, *, vae: str, dtype: str) -> None:
    """Remember that a size did not fit whole; saying it twice is saying it once."""
    document = {"schema_version": 1, "vae": vae, "dtype": dtype, "size": str(size)}
    store.create(f"{_folder(vae, dtype)}{size}.json", canonical_json(document))


def _folder(vae: str, dtype: str) -> str:
    return f"tilings/{digest({'vae': vae, 'dtype': dtype})[:32]}/"
