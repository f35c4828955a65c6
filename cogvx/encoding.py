"""Encode what the cache lacks: fetch, decode, encode, pack, put into the store.

One machine's share of the work. The VAE is gone before the text encoder is loaded, because at real
size the two together do not fit beside each other on a small GPU, and neither is loaded when
nothing of its kind is missing.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from diffusers import AutoencoderKLCogVideoX
from torch import Tensor

from cogvx.cache.keys import LatentKey, PromptKey
from cogvx.cache.plan import CachePlan, Identities, latent_key, prompt_key
from cogvx.cache.records import pack_latents, pack_prompt
from cogvx.data.decode import decode_clip
from cogvx.data.manifest import Clip, Rejected
from cogvx.data.windows import crop_rule
from cogvx.digest import sha256_file
from cogvx.errors import DataError, IntegrityError
from cogvx.model.encode import encode_prompts, encode_video
from cogvx.model.load import load_text, load_vae
from cogvx.recipe import Recipe, VideoConfig
from cogvx.store import ObjectStore
from cogvx.variants import BaseFacts

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Encoders:
    """The base model's two encoders: the folder they lie in, what they are, where they run."""

    folder: Path
    facts: BaseFacts
    ids: Identities
    device: str = "cpu"


@dataclass(frozen=True)
class EncodeReport:
    """What was encoded, and the clips that could not be."""

    encoded_latents: int
    encoded_prompts: int
    refused: tuple[Rejected, ...] = ()


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
    """Make every record that the plan misses.

    A record is created, never replaced: of two machines with the same plan the first one's stays.

    Args:
        plan: As `plan_cache` made it for this recipe and these encoders.
        recipe: Says the size, the dtype and the tiling to encode with.
        encoders: What encodes.
        dataset: Where the plan's clips lie.
        store: Where the records go.
        work: A folder for clips on their way; none is left there.
        on_progress: Called with "clips" or "captions", how many are done, and of how many.

    Returns:
        Counts, and the clips that are gone, changed since the manifest was made, or undecodable.

    Raises:
        DataError: An encoding is not finite in the recipe's dtype, or a size does not divide.
        IntegrityError: The plan is of another recipe or base model.
        TransientError: A store did not answer this time; what was encoded so far is kept.
    """
    clips = [
        (missing.clip, latent_key(missing.clip, recipe, encoders.ids)) for missing in plan.clips
    ]
    prompts = [
        prompt_key(missing.caption, recipe, encoders.ids, encoders.facts)
        for missing in plan.captions
    ]
    promised = [clip.key for clip in plan.clips] + [caption.key for caption in plan.captions]
    if promised != [key.digest for _, key in clips] + [key.digest for key in prompts]:
        raise IntegrityError(
            f"the cache plan was made for another recipe or base model than {recipe.name} on "
            f"{encoders.folder}; plan again"
        )
    source = _Source(dataset, work, recipe.video)
    refused: tuple[Rejected, ...] = ()
    if clips:
        refused = _encode_clips(
            clips, recipe, encoders, source=source, store=store, on_progress=on_progress
        )
    if prompts:
        _encode_captions(prompts, recipe, encoders, store=store, on_progress=on_progress)
    return EncodeReport(len(clips) - len(refused), len(prompts), refused)


def _encode_clips(
    clips: Sequence[tuple[Clip, LatentKey]],
    recipe: Recipe,
    encoders: Encoders,
    *,
    source: "_Source",
    store: ObjectStore,
    on_progress: Progress,
) -> tuple[Rejected, ...]:
    vae = load_vae(
        encoders.folder,
        dtype=recipe.base.dtype,
        device=encoders.device,
        tiling=recipe.cache.vae_tiling == "on",
    )
    refused = []
    rgbs = _one_ahead(source.read, [clip for clip, _ in clips])
    for done, ((clip, key), rgb) in enumerate(zip(clips, rgbs, strict=True), start=1):
        if isinstance(rgb, Rejected):
            logger.warning("clip %s is refused: %s", rgb.key, rgb.detail)
            refused.append(rgb)
        else:
            moments_cfhw = _encode_clip(vae, rgb, clip)
            store.create(key.path, pack_latents(key, moments_cfhw))
        on_progress("clips", done, len(clips))
    return tuple(refused)


def _encode_clip(vae: AutoencoderKLCogVideoX, rgb_cfhw: Tensor, clip: Clip) -> Tensor:
    try:
        return encode_video(vae, rgb_cfhw[None])[0]
    except DataError as error:
        raise DataError(f"{clip.key}: {error}") from error


def _encode_captions(
    prompts: Sequence[PromptKey],
    recipe: Recipe,
    encoders: Encoders,
    *,
    store: ObjectStore,
    on_progress: Progress,
) -> None:
    text = load_text(encoders.folder, dtype=recipe.base.dtype, device=encoders.device)
    for done, key in enumerate(prompts, start=1):
        # Alone, because the last bits depend on the batch, and the key knows no neighbours.
        embedding_sd = encode_prompts(text, [key.text], key.max_length)[0]
        if not embedding_sd.isfinite().all():
            raise DataError(
                f'the embedding of "{key.text}" is not finite in {key.dtype}; change base.dtype'
            )
        store.create(key.path, pack_prompt(key, embedding_sd))
        on_progress("captions", done, len(prompts))


@dataclass(frozen=True)
class _Source:
    """Where clips are decoded from; `work` is for those on their way."""

    dataset: ObjectStore
    work: Path
    video: VideoConfig

    def read(self, clip: Clip) -> Tensor | Rejected:
        """A clip's window as `rgb_cfhw` in [-1, 1], or why there is none."""
        self.work.mkdir(parents=True, exist_ok=True)
        # A folder of its own is removed whole; a clip that was not copied there is not touched.
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            try:
                path = self.dataset.fetch(clip.key, Path(folder))
            except IntegrityError as error:
                return Rejected(key=clip.key, reason="missing", detail=str(error))
            # The record's name promises these bytes; the dataset may have changed since.
            if sha256_file(path) != clip.sha256:
                detail = f"{clip.key} has changed since the manifest was made"
                return Rejected(key=clip.key, reason="changed", detail=detail)
            try:
                return decode_clip(
                    path,
                    start_frame=clip.start_frame,
                    size=clip.size,
                    fps=self.video.fps,
                    crop=crop_rule(clip),
                    flip=clip.flip,
                )
            except DataError as error:
                return Rejected(key=clip.key, reason="undecodable", detail=str(error))


def _one_ahead(read: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Map in order, with the next item being read while the caller uses the current one."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        current = reader.submit(read, items[0])
        for item in items[1:]:
            result, current = current.result(), reader.submit(read, item)
            yield result
        yield current.result()
