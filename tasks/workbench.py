"""What every stage needs before it starts: the checked recipe, its base model and open stores.

Stages find each other's work through digests and small pointers in the store, never through what
the caller remembers; so each can run alone, later, or on another machine.
"""

import importlib.metadata
import logging
from dataclasses import dataclass
from pathlib import Path

from cogvx.cache.plan import Identities
from cogvx.check import check_recipe
from cogvx.data.manifest import Manifest
from cogvx.digest import canonical_json, digest
from cogvx.errors import ConfigError, IntegrityError
from cogvx.model.identity import BASE_PARTS, TEXT_PARTS, VAE_PARTS, fingerprint, resolve_base
from cogvx.recipe import Recipe
from cogvx.store import ObjectStore, require_writable
from cogvx.variants import BaseFacts, read_facts
from tasks.clients.stores import open_record_store, open_store
from tasks.settings import Settings, settings

logger = logging.getLogger(__name__)


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
        """Where encoding and generation run; asking loads torch unless the settings say it."""
        if self.settings.device != "auto":
            return self.settings.device
        import torch  # noqa: PLC0415 - only stages that need it wait for it

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def _manifests(self) -> str:
        """Where manifests of this dataset, screened for this size, lie."""
        screened = {"dataset": self.recipe.dataset, "video": self.recipe.video}
        parts = {name: part.model_dump(mode="json") for name, part in screened.items()}
        return f"manifests/{digest(parts)[:32]}"

    def publish_manifest(self, manifest: Manifest) -> str:
        """Store a manifest, then point at it; returns its content digest."""
        name = manifest.content_digest()
        self.store.create(f"{self._manifests}/{name}.json", canonical_json(manifest))
        self.store.write(f"{self._manifests}/latest", name.encode())
        return name

    def latest_manifest(self) -> Manifest:
        """The manifest that the cache stage published last.

        Raises:
            ConfigError: The cache stage has not run for this dataset and size.
        """
        pointer = f"{self._manifests}/latest"
        if self.store.info(pointer) is None:
            raise ConfigError(
                f"{self.recipe.dataset.uri} has not been cached for {self.recipe.video.size} yet; "
                "run `cogvx cache` with this recipe first"
            )
        name = self.store.read(pointer).decode()
        manifest = Manifest.model_validate_json(self.store.read(f"{self._manifests}/{name}.json"))
        if manifest.content_digest() != name:
            raise IntegrityError(f"manifest {name} in {self.store.url} is damaged")
        return manifest

    def run_identity(self, manifest: Manifest) -> str:
        """The run's name: everything that decides the adapter's bits, and nothing else."""
        return digest(
            {
                "training": self.recipe.training_digest(),
                "manifest": manifest.content_digest(),
                "base": self.base_fingerprint,
                "code": code_version(),
            }
        )


def code_version() -> str:
    """Version of this project, part of a run's identity."""
    return importlib.metadata.version("cogvx")


def open_workbench(recipe: Recipe) -> Workbench:
    """Check the recipe against its base and open the stores.

    Raises:
        ConfigError: With every problem of the recipe, or why a store refuses.
        TransientError: A store or the hub did not answer this time.
    """
    checked = check_recipe(recipe)
    for warning in checked.warnings:
        logger.warning(warning)
    here = settings()
    store = open_record_store(here)
    require_writable(store)
    base = resolve_base(recipe.base.path, recipe.base.revision)
    return Workbench(
        recipe=recipe,
        settings=here,
        store=store,
        dataset=open_store(recipe.dataset.uri, here),
        base=base,
        base_fingerprint=fingerprint(base, BASE_PARTS),
        facts=read_facts(base),
        ids=Identities(vae=fingerprint(base, VAE_PARTS), text=fingerprint(base, TEXT_PARTS)),
        warnings=checked.warnings,
    )
