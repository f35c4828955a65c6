"""Where manifests are kept: each under its digest, a pointer to the latest, and the last change.

A shelf holds the manifests of one dataset under one set of settings, so neighbours on it differ by
what happened to the clips and by nothing else.
"""

from pydantic import ValidationError

from cogvx.data.diff import ManifestDiff, diff_manifests
from cogvx.data.manifest import Manifest
from cogvx.digest import canonical_json
from cogvx.errors import IntegrityError
from cogvx.store import ObjectStore


class Shelf:
    """The manifests below one folder of a store."""

    def __init__(self, store: ObjectStore, folder: str) -> None:
        """`folder` is a key without a slash at its end."""
        self._store = store
        self._folder = folder

    def publish(self, manifest: Manifest) -> ManifestDiff | None:
        """Store a manifest, then what it changes, then point at it.

        What stands there already is left alone, unless it was damaged.

        Returns:
            The way from the manifest that was the latest before; None for the first one, or where
            the one before cannot be read any more.
        """
        name = manifest.content_digest()
        before = self.latest_name()
        self._put(f"{self._folder}/{name}.json", canonical_json(manifest))
        if before != name:
            change = self._change(before, manifest)
            self._put(self._change_key, canonical_json(change) if change else b"null")
        self._put(f"{self._folder}/latest", name.encode())
        return self.last_change()

    def latest_name(self) -> str | None:
        """The content digest of the latest manifest, None before there is one."""
        pointer = f"{self._folder}/latest"
        if self._store.info(pointer) is None:
            return None
        return self._store.read(pointer).decode()

    def read(self, name: str) -> Manifest:
        """The manifest with a content digest.

        Raises:
            IntegrityError: It is absent or damaged.
        """
        key = f"{self._folder}/{name}.json"
        try:
            manifest = Manifest.model_validate_json(self._store.read(key))
        except ValidationError as error:
            raise IntegrityError(f"{key} in {self._store.url} is no manifest: {error}") from error
        if manifest.content_digest() != name:
            raise IntegrityError(f"manifest {name} in {self._store.url} is damaged; cache again")
        return manifest

    def last_change(self) -> ManifestDiff | None:
        """What the latest manifest changed, however often it was published since."""
        if self._store.info(self._change_key) is None:
            return None
        data = self._store.read(self._change_key)
        try:
            return None if data == b"null" else ManifestDiff.model_validate_json(data)
        except ValidationError as error:
            raise IntegrityError(
                f"{self._change_key} in {self._store.url} is damaged; remove it"
            ) from error

    @property
    def _change_key(self) -> str:
        return f"{self._folder}/change.json"

    def _change(self, before: str | None, after: Manifest) -> ManifestDiff | None:
        if before is None:
            return None
        try:
            return diff_manifests(self.read(before), after)
        except IntegrityError:
            return None  # of an older form, or damaged: it can tell nothing any more

    def _put(self, key: str, data: bytes) -> None:
        if self._store.info(key) is None or self._store.read(key) != data:
            self._store.write(key, data)
