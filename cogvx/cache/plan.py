"""What the cache lacks for a manifest and a recipe, found without loading a model.

Clips and captions are named by keys here, so this is also where a clip becomes a `Sample`: the
names of the two records that training reads.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cogvx.cache.keys import LatentKey, PromptKey, record_path
from cogvx.data.captions import normalise_caption
from cogvx.data.manifest import Clip, Manifest
from cogvx.recipe import Recipe
from cogvx.store import ObjectStore
from cogvx.variants import BaseFacts

EMPTY_CAPTION = ""

# A listing names 1,000 objects in one request, so it beats asking for each record unless few are
# wanted; a store would have to hold 50 times as many records as this run wants to make it lose.
LISTING_ABOVE = 20


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Identities:
    """Fingerprints of what encodes: the VAE, and the text encoder with its tokenizer."""

    vae: str
    text: str


class Sample(_Document):
    """A clip as training sees it: the names of its records, and where it came from."""

    clip: str
    caption: str
    latents: str
    prompt: str


class MissingClip(_Document):
    """A clip to encode, and the name of the record to make of it."""

    clip: Clip
    key: str


class MissingCaption(_Document):
    """A normalised caption to encode, and the name of the record to make of it."""

    caption: str
    key: str


class CachePlan(_Document):
    """What must be encoded. Clips or captions that share a record are wanted, and listed, once."""

    schema_version: Literal[1] = 1
    manifest: str
    latents_wanted: int
    latents_present: int
    prompts_wanted: int
    prompts_present: int
    clips: tuple[MissingClip, ...] = ()
    captions: tuple[MissingCaption, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to encode."""
        return not self.clips and not self.captions


def latent_key(clip: Clip, recipe: Recipe, ids: Identities) -> LatentKey:
    """Everything that decides a clip's latents."""
    return LatentKey(
        source_sha256=clip.sha256,
        start_frame=clip.start_frame,
        fps=recipe.video.fps,
        size=clip.size,
        crop=clip.crop,
        flip=clip.flip,
        vae_fingerprint=ids.vae,
        dtype=recipe.base.dtype,
        tiling=recipe.cache.vae_tiling == "on",
    )


def prompt_key(caption: str, recipe: Recipe, ids: Identities, facts: BaseFacts) -> PromptKey:
    """Everything that decides a caption's embedding; the caption is normalised here."""
    return PromptKey(
        text=normalise_caption(caption),
        encoder_fingerprint=ids.text,
        max_length=facts.text_tokens,
        dtype=recipe.base.dtype,
    )


def plan_cache(
    manifest: Manifest, recipe: Recipe, *, facts: BaseFacts, ids: Identities, store: ObjectStore
) -> CachePlan:
    """Find the records that the manifest needs and the store lacks.

    The empty caption is always wanted: caption dropout and guidance use it. Presence is by name;
    whoever reads a record verifies its bytes.

    Raises:
        TransientError: The store did not answer this time.
    """
    clips = {latent_key(clip, recipe, ids): clip for clip in manifest.clips}
    captions = (EMPTY_CAPTION, *(clip.caption for clip in manifest.clips))
    prompts = dict.fromkeys(prompt_key(caption, recipe, ids, facts) for caption in captions)
    stored = _present({key.path for key in clips}, store, "records/latents/")
    stored |= _present({key.path for key in prompts}, store, "records/prompts/")
    missing_clips = [
        MissingClip(clip=clip, key=key.digest)
        for key, clip in clips.items()
        if key.path not in stored
    ]
    missing_captions = [
        MissingCaption(caption=key.text, key=key.digest)
        for key in prompts
        if key.path not in stored
    ]
    return CachePlan(
        manifest=manifest.content_digest(),
        latents_wanted=len(clips),
        latents_present=len(clips) - len(missing_clips),
        prompts_wanted=len(prompts),
        prompts_present=len(prompts) - len(missing_captions),
        clips=tuple(missing_clips),
        captions=tuple(missing_captions),
    )


def samples(
    clips: Sequence[Clip], recipe: Recipe, *, facts: BaseFacts, ids: Identities
) -> tuple[Sample, ...]:
    """Name the records of each clip, in the clips' order."""
    return tuple(
        Sample(
            clip=clip.key,
            caption=normalise_caption(clip.caption),
            latents=latent_key(clip, recipe, ids).digest,
            prompt=prompt_key(clip.caption, recipe, ids, facts).digest,
        )
        for clip in clips
    )


def record_paths(wanted: Iterable[Sample], *prompts: str) -> dict[str, str]:
    """Where the records of samples, and of further prompts, lie in the store, by their names."""
    paths = {prompt: record_path("prompts", prompt) for prompt in prompts}
    for sample in wanted:
        paths[sample.latents] = record_path("latents", sample.latents)
        paths[sample.prompt] = record_path("prompts", sample.prompt)
    return paths


def _present(paths: set[str], store: ObjectStore, prefix: str) -> set[str]:
    if len(paths) > LISTING_ABOVE:
        return paths.intersection(entry.key for entry in store.entries(prefix))
    return {path for path in paths if store.info(path) is not None}
