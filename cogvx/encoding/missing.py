"""One machine's share of the work: everything that a plan, or a shard of one, lacks.

The VAE is gone before the text encoder is loaded, because at real size the two together do not fit
beside each other on a small GPU, and neither is loaded when nothing of its kind is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cogvx.cache.plan import CachePlan, MissingClip, image_keys, latent_key, prompt_key
from cogvx.data.manifest import Refused
from cogvx.encoding.captions import encode_captions
from cogvx.encoding.clips import EncodedClips, encode_clips
from cogvx.encoding.encoders import Encoders
from cogvx.encoding.sources import Window
from cogvx.errors import IntegrityError
from cogvx.recipe import Recipe
from cogvx.shapes import VideoSize
from cogvx.store import ObjectStore

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EncodeReport:
    """What was encoded, the clips that could not be, and the sizes that became tiled meanwhile.

    Where `tiled` is not empty, windows of these sizes were passed over: plan again.
    """

    encoded_latents: int
    encoded_prompts: int
    encoded_images: int = 0
    refused: tuple[Refused, ...] = ()
    tiled: tuple[VideoSize, ...] = ()

    @property
    def encoded(self) -> int:
        """Records of all kinds."""
        return self.encoded_latents + self.encoded_prompts + self.encoded_images


def encode_missing(
    plan: CachePlan,
    recipe: Recipe,
    *,
    encoders: Encoders,
    dataset: ObjectStore,
    store: ObjectStore,
    work: Path,
    on_progress: Progress,
) -> EncodeReport:
    """Make every record that the plan misses and that is not there by now.

    A record is created, never replaced: of two machines with the same plan the first one's stays.

    Args:
        plan: As `plan_cache` made it for this recipe and these encoders, or a shard of that.
        recipe: Says the size, the dtype and the tiling to encode with.
        encoders: What encodes.
        dataset: Where the plan's clips lie.
        store: Where the records go.
        work: A folder for clips on their way; none is left there.
        on_progress: Called with "clips" or "captions", how many are done, and of how many; always
            on the caller's thread.

    Returns:
        Counts, the clips that are gone, changed since the manifest was made, or undecodable, and
        the sizes that a GPU turned out to be too small for.

    Raises:
        DataError: An encoding is not finite in the recipe's dtype, or a size does not divide.
        IntegrityError: The plan is of another recipe or base model.
        ConfigError: The GPU is too small even so, or something cannot be written.
        TransientError: A store did not answer this time; what was encoded so far is kept.
    """
    overtaken = _overtaken(plan, recipe, encoders)
    windows = [
        _window(missing, recipe, encoders)
        for missing in plan.clips
        if missing.clip.size not in overtaken
    ]
    prompts = [
        prompt_key(missing.caption, recipe, encoders.ids, encoders.facts)
        for missing in plan.captions
    ]
    promised = [clip.key for clip in plan.clips if clip.clip.size not in overtaken]
    promised += [caption.key for caption in plan.captions]
    if promised != [window.key.digest for window in windows] + [key.digest for key in prompts]:
        raise _foreign_plan(recipe, encoders)
    clips = EncodedClips(0, 0, (), ())
    if windows:
        clips = encode_clips(
            windows,
            recipe,
            encoders,
            dataset=dataset,
            store=store,
            work=work,
            on_progress=lambda done: on_progress("clips", done, len(windows)),
        )
        torch.cuda.empty_cache()  # what the VAE leaves behind, on a GPU that was used
    captions = 0
    if prompts:
        captions = encode_captions(
            prompts,
            recipe,
            encoders,
            store=store,
            on_progress=lambda done: on_progress("captions", done, len(prompts)),
        )
    return EncodeReport(
        encoded_latents=clips.latents,
        encoded_prompts=captions,
        encoded_images=clips.images,
        refused=clips.refused,
        tiled=tuple(sorted({*clips.tiled, *overtaken}, key=str)),
    )


def _overtaken(plan: CachePlan, recipe: Recipe, encoders: Encoders) -> set[VideoSize]:
    """Sizes that the plan wants whole and that became tiled since, on another machine perhaps."""
    whole = replace(encoders.ids, tiled=())
    return {
        missing.clip.size
        for missing in plan.clips
        if missing.clip.size in encoders.ids.tiled
        and missing.key == latent_key(missing.clip, recipe, whole).digest
        and missing.key != latent_key(missing.clip, recipe, encoders.ids).digest
    }


def _window(missing: MissingClip, recipe: Recipe, encoders: Encoders) -> Window:
    images = image_keys(missing.clip, recipe, facts=encoders.facts, ids=encoders.ids)
    if not set(missing.draws) <= set(range(len(images))):
        raise _foreign_plan(recipe, encoders)
    return Window(
        clip=missing.clip,
        key=latent_key(missing.clip, recipe, encoders.ids),
        latents=missing.latents,
        images=tuple(images[draw] for draw in missing.draws),
    )


def _foreign_plan(recipe: Recipe, encoders: Encoders) -> IntegrityError:
    return IntegrityError(
        f"the cache plan was made for another recipe or base model than {recipe.name} on "
        f"{encoders.folder}; plan again"
    )
