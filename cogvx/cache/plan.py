"""What the cache lacks for a manifest and a recipe, found without loading a model.

Clips and captions are named by keys here, so this is also where a clip becomes a `Sample`: the
names of the records that training reads.
"""

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cogvx.cache.keys import ImageKey, LatentKey, PromptKey, record_path
from cogvx.data.captions import normalise_caption
from cogvx.data.manifest import Clip, Manifest
from cogvx.recipe import Recipe
from cogvx.shapes import VideoSize
from cogvx.store import ObjectStore
from cogvx.variants import BaseFacts

EMPTY_CAPTION = ""

Key = LatentKey | ImageKey | PromptKey

# A listing names 1,000 objects in one request, so it beats asking for each record unless few are
# wanted; a store would have to hold 50 times as many records as this run wants to make it lose.
LISTING_ABOVE = 20
# A listing comes page after page, each a request, so the records are listed by their first digits,
# side by side. By two digits it would be 256 requests, most of them for pages almost empty.
_DIGITS = "0123456789abcdef"
_LOOKING = 16


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Identities:
    """Fingerprints of what encodes: the VAE, and the text encoder with its tokenizer.

    `tiled` are the sizes that did not fit into a GPU whole, as `cogvx.cache.tilings` remembers.
    """

    vae: str
    text: str
    tiled: tuple[VideoSize, ...] = ()


class Sample(_Document):
    """A window as training sees it: its clip, the names of its records, the bucket it is in.

    `images` are its noised first frames; only image-to-video bases have them.
    """

    clip: str
    caption: str
    latents: str
    prompt: str
    size: VideoSize
    images: tuple[str, ...] = ()


class MissingClip(_Document):
    """A window to encode, and the name of its latents' record.

    `latents` is False where only noised first frames are missing, the ones in `draws`.
    """

    clip: Clip
    key: str
    latents: bool = True
    draws: tuple[int, ...] = ()


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
    images_wanted: int = 0
    images_present: int = 0
    clips: tuple[MissingClip, ...] = ()
    captions: tuple[MissingCaption, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to encode."""
        return not self.clips and not self.captions

    @property
    def wanted(self) -> int:
        """Records of all kinds that the manifest needs."""
        return self.latents_wanted + self.prompts_wanted + self.images_wanted


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
        tiling=is_tiled(clip.size, recipe, ids),
    )


def is_tiled(size: VideoSize, recipe: Recipe, ids: Identities) -> bool:
    """Whether latents of this size are encoded in tiles: all of one size are, or none."""
    asked = recipe.cache.vae_tiling
    return asked == "on" or (asked == "auto" and size in ids.tiled)


def image_keys(
    clip: Clip, recipe: Recipe, *, facts: BaseFacts, ids: Identities
) -> tuple[ImageKey, ...]:
    """Everything that decides a window's noised first frames; none for text-to-video bases."""
    if not facts.variant.image_to_video:
        return ()
    window = latent_key(clip, recipe, ids)
    return tuple(ImageKey(window, draw) for draw in range(recipe.cache.image_draws))


def prompt_key(caption: str, recipe: Recipe, ids: Identities, facts: BaseFacts) -> PromptKey:
    """Everything that decides a caption's embedding; the caption is normalised here."""
    return PromptKey(
        text=normalise_caption(caption),
        encoder_fingerprint=ids.text,
        max_length=facts.text_tokens,
        dtype=recipe.base.dtype,
        batch=recipe.cache.prompt_batch,
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
    windows = {latent_key(clip, recipe, ids): clip for clip in manifest.clips}
    images = {key: image_keys(clip, recipe, facts=facts, ids=ids) for key, clip in windows.items()}
    captions = (EMPTY_CAPTION, *(clip.caption for clip in manifest.clips))
    prompts = dict.fromkeys(prompt_key(caption, recipe, ids, facts) for caption in captions)
    absent_latents, absent_images, absent_prompts = _absent(
        store, windows, chain.from_iterable(images.values()), prompts
    )
    missing_clips = [
        MissingClip(
            clip=clip,
            key=key.digest,
            latents=key in absent_latents,
            draws=tuple(image.draw for image in images[key] if image in absent_images),
        )
        for key, clip in windows.items()
        if key in absent_latents or not absent_images.isdisjoint(images[key])
    ]
    images_wanted = sum(map(len, images.values()))
    return CachePlan(
        manifest=manifest.content_digest(),
        latents_wanted=len(windows),
        latents_present=len(windows) - len(absent_latents),
        prompts_wanted=len(prompts),
        prompts_present=len(prompts) - len(absent_prompts),
        images_wanted=images_wanted,
        images_present=images_wanted - len(absent_images),
        clips=tuple(missing_clips),
        captions=tuple(
            MissingCaption(caption=key.text, key=key.digest)
            for key in prompts
            if key in absent_prompts
        ),
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
            size=clip.size,
            images=tuple(key.digest for key in image_keys(clip, recipe, facts=facts, ids=ids)),
        )
        for clip in clips
    )


def record_paths(wanted: Iterable[Sample], *prompts: str) -> dict[str, str]:
    """Where the records of samples, and of further prompts, lie in the store, by their names."""
    paths = {prompt: record_path("prompts", prompt) for prompt in prompts}
    for sample in wanted:
        paths[sample.latents] = record_path("latents", sample.latents)
        paths[sample.prompt] = record_path("prompts", sample.prompt)
        paths |= {image: record_path("images", image) for image in sample.images}
    return paths


def _absent(store: ObjectStore, *kinds: Iterable[Key]) -> list[set[Key]]:
    """Of each kind of keys, those whose record the store lacks."""
    absent = [{key.path: key for key in kind} for kind in kinds]
    pool = ThreadPoolExecutor(_LOOKING)
    try:
        looks = [pool.submit(look) for paths in absent for look in _looks(paths, store)]
        for look in looks:
            look.result()
    finally:
        pool.shutdown(cancel_futures=True)
    return [set(paths.values()) for paths in absent]


def _looks(absent: MutableMapping[str, Key], store: ObjectStore) -> Iterator[Callable[[], None]]:
    """Requests that can be made side by side; each strikes out the paths that it finds stored."""
    if len(absent) <= LISTING_ABOVE:
        yield from (partial(_ask, path, absent, store) for path in tuple(absent))
        return
    # records/<kind>/<two digits>/<name>
    folders = {path.rsplit("/", 2)[0] for path in absent}
    for folder in sorted(folders):
        yield from (partial(_list, f"{folder}/{digit}", absent, store) for digit in _DIGITS)


def _ask(path: str, absent: MutableMapping[str, Key], store: ObjectStore) -> None:
    if store.info(path) is not None:
        del absent[path]


def _list(prefix: str, absent: MutableMapping[str, Key], store: ObjectStore) -> None:
    # Names are struck out as they come, so that no more than a page of them is held.
    for entry in store.entries(prefix):
        absent.pop(entry.key, None)
