"""What plans name besides themselves: adapters and first frames, put into the store after them.

A plan that was published lately keeps from pruning what it names. Looked for before the plan is
there, an adapter that lies in the store since earlier work may be gone when a worker wants it.
"""

from pathlib import Path

import numpy as np

from cogvx.store import ObjectStore
from tasks.generation.generate_inputs import picture_key, publish_picture
from tasks.registry.adapter_refs import adapter_key


class Enclosures:
    """Collects while plans are made; `put` them once all plans are published."""

    def __init__(self, store: ObjectStore, pictures: str) -> None:
        """`pictures` is the folder of first frames in the store."""
        self._store, self._folder = store, pictures
        self._adapters: dict[str, Path] = {}
        self._pictures: dict[str, np.ndarray] = {}

    def adapter(self, sha256: str, path: Path) -> str:
        """Enclose an adapter's file; returns its digest."""
        self._adapters[sha256] = path
        return sha256

    def picture(self, rgb_hwc: np.ndarray) -> str:
        """Enclose a first frame; returns the key that it will have."""
        key = picture_key(rgb_hwc, self._folder)
        self._pictures[key] = rgb_hwc
        return key

    def put(self) -> None:
        """Put into the store what it lacks."""
        for sha256, path in self._adapters.items():
            if self._store.info(adapter_key(sha256)) is None:
                self._store.upload(path, adapter_key(sha256))
        for rgb_hwc in self._pictures.values():
            publish_picture(rgb_hwc, self._folder, self._store)
