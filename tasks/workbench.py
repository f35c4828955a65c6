"""What every stage needs before it starts: the checked recipe, its base model and open stores.

Stages find each other's work through digests and small pointers in the store, never through what
the caller remembers; so each can run alone, later, or on another machine.
"""

import functools
import importlib.metadata
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from cogvx.cache.plan import Identities, is_tiled
from cogvx.cache.tilings import tiled_sizes
from cogvx.check import Purpose, check_recipe
from cogvx.data.manifest import Manifest
from cogvx.data.shelf import Shelf
from cogvx.digest import canonical_json, digest
from cogvx.errors import ConfigError, IntegrityError, TransientError
from cogvx.model.hashes import FileHashes
from cogvx.model.identity import BASE_PARTS, TEXT_PARTS, VAE_PARTS, fingerprint, resolve_base
from cogvx.recipe import Recipe
from cogvx.store import Absent, ObjectStore, require_writable
from cogvx.variants import BaseFacts, read_facts
from tasks.clients.stores import open_record_store, open_store
from tasks.settings import Settings, settings

logger = logging.getLogger(__name__)

DocumentT = TypeVar("DocumentT", bound=BaseModel)


@dataclass(frozen=True)
class Workbench:
    """A recipe ready to be worked on."""

    recipe: Recipe
    settings: Settings
    store: ObjectStore
    dataset: ObjectStore
    base: Path
    base_fingerprint: str
    facts: BaseFacts
    ids: Identities
    warnings: tuple[str, ...]

    @property
    def work(self) -> Path:
        """Scratch folder."""
        return self.settings.work

    @property
    def device(self) -> str:
        """See `device_of`."""
        return device_of(self.settings)

    @property
    def _manifests(self) -> str:
        """Where manifests of this dataset, screened for this size, lie."""
        screened = {"dataset": self.recipe.dataset, "video": self.recipe.video}
        parts = {name: part.model_dump(mode="json") for name, part in screened.items()}
        return f"manifests/{digest(parts)[:32]}"

    @property
    def shelf(self) -> Shelf:
        """The manifests of this dataset under this recipe's settings."""
        return Shelf(self.store, self._manifests)

    def publish(self, folder: str, document: BaseModel) -> str:
        """See `publish`."""
        return publish(self.store, folder, document)

    def published(self, folder: str, name: str, kind: type[DocumentT]) -> DocumentT:
        """See `published`."""
        return published(self.store, folder, name, kind=kind)

    def put(self, key: str, data: bytes) -> None:
        """See `put`."""
        put(self.store, key, data)

    def latest_manifest(self) -> Manifest:
        """The manifest that the cache stage published last.

        Raises:
            ConfigError: The cache stage has not run for this dataset and size.
            IntegrityError: The manifest is damaged; caching again writes it anew.
        """
        name = self.shelf.latest_name()
        if name is None:
            sizes = ", ".join(str(size) for size in self.recipe.video.sizes)
            raise ConfigError(
                f"{self.recipe.dataset.uri} has not been cached for {sizes} yet; "
                "run `cogvx cache` with this recipe first"
            )
        return self.shelf.read(name)

    def run_identity(self, manifest: Manifest) -> str:
        """The run's name: everything that decides the adapter's bits, and nothing else."""
        return digest(
            {
                "training": self.recipe.training_digest(),
                "manifest": manifest.content_digest(),
                "base": self.base_fingerprint,
                "tiled": [
                    str(size)
                    for size in self.recipe.video.sizes
                    if is_tiled(size, self.recipe, self.ids)
                ],
                "code": code_version(),
            }
        )


def device_of(here: Settings) -> str:
    """Where encoding and generation run; asking loads torch unless the settings say cpu.

    Raises:
        ConfigError: The settings ask for a GPU that is not there.
    """
    if here.device == "cpu":
        return "cpu"
    import torch  # noqa: PLC0415 - only stages that need it wait for it

    if torch.cuda.is_available():
        return "cuda"
    if here.device == "cuda":
        raise ConfigError("COGVX_DEVICE = cuda, but torch finds no CUDA device; use cpu or auto")
    return "cpu"


def publish(store: ObjectStore, folder: str, document: BaseModel) -> str:
    """Store a document under the digest of its content; returns the digest.

    Written again where it is there, as what was planned lately keeps what it names from pruning.
    """
    name = digest(document)
    store.write(f"{folder}/{name}.json", canonical_json(document))
    return name


def published(store: ObjectStore, folder: str, name: str, *, kind: type[DocumentT]) -> DocumentT:
    """Read back what `publish` stored.

    Raises:
        TransientError: It is not there, or cannot be seen yet; whoever publishes it does so anew in
            every run.
        IntegrityError: It is not what its name says.
    """
    try:
        document = read_stored(store, f"{folder}/{name}.json", kind)
    except Absent as error:
        raise TransientError(f"{error}, or not yet; run again, and it is written anew") from error
    if digest(document) != name:
        raise IntegrityError(
            f"{folder}/{name}.json in {store.url} is damaged; remove it, and run again"
        )
    return document


def put(store: ObjectStore, key: str, data: bytes) -> None:
    """Store a small object, unless exactly that stands there already."""
    if store.info(key) is None or store.read(key) != data:
        store.write(key, data)


def read_stored(store: ObjectStore, key: str, kind: type[DocumentT]) -> DocumentT:
    """Read a document of ours from the store.

    Raises:
        IntegrityError: It is absent, or not such a document.
    """
    try:
        return kind.model_validate_json(store.read(key))
    except ValidationError as error:
        raise IntegrityError(
            f"{key} in {store.url} is not a {kind.__name__}; remove it, and it is made again"
        ) from error


@functools.cache
def warn_once(sentence: str) -> None:
    """Say something loudly, once in a process, however many stages come across it."""
    logger.warning("%s", sentence)


def code_version() -> str:
    """Version of this project, part of a run's identity."""
    return importlib.metadata.version("cogvx")


def open_workbench(recipe: Recipe, *, purpose: Purpose = "train") -> Workbench:
    """Check that the recipe's base is good for a purpose, and open the stores.

    Raises:
        ConfigError: With every problem of the recipe, or why a store refuses.
        TransientError: A store or the hub did not answer this time.
    """
    checked = check_recipe(recipe, purpose=purpose)
    for warning in checked.warnings:
        warn_once(warning)
    here = settings()
    store = open_record_store(here)
    require_writable(store)
    base = resolve_base(recipe.base.path, recipe.base.revision)
    hashes = FileHashes(here.file_hashes)
    vae, text, whole = (
        fingerprint(base, parts, hashes=hashes) for parts in (VAE_PARTS, TEXT_PARTS, BASE_PARTS)
    )
    hashes.save()
    return Workbench(
        recipe=recipe,
        settings=here,
        store=store,
        dataset=open_store(recipe.dataset.uri, here),
        base=base,
        base_fingerprint=whole,
        facts=read_facts(base),
        ids=Identities(
            vae=vae,
            text=text,
            tiled=tiled_sizes(store, vae=vae, dtype=recipe.base.dtype),
        ),
        warnings=checked.warnings,
    )
