"""What a complete cache holds for a manifest: the records of every sample, by name.

Every cache run writes it before the first record is looked for, so that housekeeping, which starts
from indexes and runs, keeps what the run is about to use. It promises no record: one may still be
missing, or may have been dropped since.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from cogvx.cache.plan import EMPTY_CAPTION, Identities, Sample, prompt_key, record_paths, samples
from cogvx.data.manifest import Manifest
from cogvx.recipe import Recipe
from cogvx.variants import BaseFacts


class CacheIndex(BaseModel):
    """The records of a manifest's samples; `manifest` is its content digest.

    `dataset`, `dtype` and the fingerprints of the two encoders, `vae` and `text`, are for people
    who ask what the store holds: records are named by digests, which cannot be read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    manifest: str
    dataset: str
    dtype: str
    vae: str
    text: str
    train: tuple[Sample, ...]
    heldout: tuple[Sample, ...]
    empty_prompt: str

    def reaches(self) -> set[str]:
        """Where every record lies that this index needs."""
        return set(record_paths((*self.train, *self.heldout), self.empty_prompt).values())


def index_cache(
    manifest: Manifest, recipe: Recipe, *, facts: BaseFacts, ids: Identities
) -> CacheIndex:
    """Name the records of every sample of a manifest, whether or not they exist."""
    return CacheIndex(
        manifest=manifest.content_digest(),
        dataset=manifest.dataset,
        dtype=recipe.base.dtype,
        vae=ids.vae,
        text=ids.text,
        train=samples(manifest.train, recipe, facts=facts, ids=ids),
        heldout=samples(manifest.heldout, recipe, facts=facts, ids=ids),
        empty_prompt=prompt_key(EMPTY_CAPTION, recipe, ids, facts).digest,
    )
