"""Windows through the VAE: decoded ahead on threads, encoded in order, uploaded behind."""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX

from cogvx.cache.records import pack_image, pack_latents
from cogvx.cache.tilings import mark_tiled
from cogvx.data.manifest import Refused
from cogvx.data.scratch import scratch_folder
from cogvx.encoding.encoders import Encoders
from cogvx.encoding.read_ahead import read_ahead
from cogvx.encoding.sources import Pixels, Sources, Window
from cogvx.encoding.uploads import Record, uploading
from cogvx.errors import ConfigError, DataError
from cogvx.model.encode import encode_image, encode_video
from cogvx.model.load import load_vae, torch_dtype
from cogvx.recipe import Recipe
from cogvx.shapes import VideoSize
from cogvx.store import ObjectStore

logger = logging.getLogger(__name__)

_MOST_THREADS = 8
# What decoding may hold in memory. Decoding stacks frames, both in float32, beside a window that
# was decoded before.
_DECODING_BYTES = 8 << 30
_BYTES_PER_PIXEL = 3 * 4 * 3


@dataclass(frozen=True)
class EncodedClips:
    """How many records were made, which clips gave none, and which sizes must be planned again."""

    latents: int
    images: int
    refused: tuple[Refused, ...]
    tiled: tuple[VideoSize, ...]


def encode_clips(
    windows: Sequence[Window],
    recipe: Recipe,
    encoders: Encoders,
    *,
    dataset: ObjectStore,
    store: ObjectStore,
    work: Path,
    on_progress: Callable[[int], None],
) -> EncodedClips:
    """Make the records that the windows lack, latents and noised first frames.

    What the store holds by the time a window is read is not made again.

    Where `cache.vae_tiling` is "auto", a size that the GPU is too small for is marked in the store,
    and its other windows are passed over: their keys promise that they are whole.

    Args:
        windows: In the order in which they are encoded; at least one.
        recipe: Says the precision, and whether tiling is allowed.
        encoders: Where the VAE is, and where it runs.
        dataset: Where the clips lie.
        store: Where the records go.
        work: For copies of clips on their way; none is left there.
        on_progress: Called with how many windows are done with.

    Raises:
        DataError: An encoding is not finite in the recipe's precision, or a size does not divide.
        ConfigError: The GPU is too small for a size, or something cannot be written.
        TransientError: A store did not answer this time.
    """
    vae = load_vae(encoders.folder, dtype=recipe.base.dtype, device=encoders.device)
    encoder = _Encoder(vae, recipe, encoders, store)
    numbers = count(1)
    threads = decoding_threads(max((window.clip.size for window in windows), key=_pixels))
    refused: dict[str, Refused] = {}
    latents = images = 0
    with scratch_folder(work, "encode") as folder:
        sources = Sources(dataset, folder, windows, dtype=torch_dtype(recipe.base.dtype))
        reader = _Reader(sources, store, encoder.tiled)
        with (
            uploading(store, lambda: on_progress(next(numbers))) as uploads,
            closing(
                read_ahead(reader.read, windows, threads=threads, ahead=threads + 1)
            ) as decoded,
        ):
            for window, pixels in decoded:
                uploads.collect()
                records: list[Record] = []
                if isinstance(pixels, Refused):
                    _refuse(pixels, refused)
                elif pixels is not None and window.clip.size not in encoder.tiled:
                    records = encoder.encode(window, pixels)
                if not records:
                    on_progress(next(numbers))
                    continue
                uploads.put(window.clip.key, records)
                latents += window.latents
                images += len(window.images)
    return EncodedClips(latents, images, tuple(refused.values()), tuple(encoder.tiled))


def _refuse(clip: Refused, refused: dict[str, Refused]) -> None:
    """Once for each clip, however many windows of it are bad."""
    if clip.key not in refused:
        logger.warning("clip %s is refused: %s", clip.key, clip.detail)
        refused[clip.key] = clip


def decoding_threads(size: VideoSize) -> int:
    """How many windows of a size are decoded at once: by cores, and by what they hold in memory."""
    by_memory = _DECODING_BYTES // (_pixels(size) * _BYTES_PER_PIXEL)
    return max(1, min(os.cpu_count() or 1, _MOST_THREADS, by_memory))


def _pixels(size: VideoSize) -> int:
    return size.frames * size.pixels


@dataclass(frozen=True)
class _Reader:
    """Reads windows that still lack something, unless their size is `tiled` by now."""

    sources: Sources
    store: ObjectStore
    tiled: set[VideoSize]

    def read(self, window: Window) -> tuple[Window, Pixels | Refused | None]:
        """What a window lacks at this moment, and its pixels or why there are none.

        Another worker, or this one before it was interrupted, may have made some of it; asking
        costs a request, and encoding seconds.
        """
        lacking = replace(
            window,
            latents=window.latents and self.store.info(window.key.path) is None,
            images=tuple(key for key in window.images if self.store.info(key.path) is None),
        )
        if window.clip.size in self.tiled or not (lacking.latents or lacking.images):
            self.sources.skip(window)
            return lacking, None
        return lacking, self.sources.read(lacking)


class _Encoder:
    """The VAE and what it learns of the GPU; `tiled` are the sizes that turned out too large."""

    tiled: set[VideoSize]

    def __init__(
        self, vae: AutoencoderKLCogVideoX, recipe: Recipe, encoders: Encoders, store: ObjectStore
    ) -> None:
        self.tiled = set()
        self._vae = vae
        self._recipe = recipe
        self._encoders = encoders
        self._store = store

    def encode(self, window: Window, pixels: Pixels) -> list[Record]:
        """The records of a window; none if it is too large to be encoded whole."""
        if window.key.tiling:
            self._vae.enable_tiling()
        else:
            self._vae.disable_tiling()
        for _ in range(2):
            try:
                return self._records(window, pixels)
            except torch.OutOfMemoryError:
                logger.info("out of memory on %s of %s", window.clip.size, window.clip.key)
            except DataError as error:
                raise DataError(f"{window.clip.key}: {error}") from error
            # The second try has what the allocator kept for other sizes. Out of the clause above,
            # because the error holds on to the tensors of the call that failed.
            torch.cuda.empty_cache()
        self._give_up_on(window)
        return []

    def _records(self, window: Window, pixels: Pixels) -> list[Record]:
        records: list[Record] = []
        if pixels.rgb_cfhw is not None:
            moments_cfhw = encode_video(self._vae, pixels.rgb_cfhw[None])[0].cpu()
            records.append((window.key.path, partial(pack_latents, window.key, moments_cfhw)))
        if pixels.first_chw is not None:
            for key in window.images:
                generator = torch.Generator().manual_seed(key.seed)
                moments_cfhw = encode_image(self._vae, pixels.first_chw, generator).cpu()
                records.append((key.path, partial(pack_image, key, moments_cfhw)))
        return records

    def _give_up_on(self, window: Window) -> None:
        size, device = window.clip.size, self._encoders.device
        if window.key.tiling:
            raise ConfigError(
                f"{window.clip.key}: {size} does not fit into the memory of {device} even in tiles;"
                " use a smaller size or a larger GPU"
            )
        if self._recipe.cache.vae_tiling == "off":
            raise ConfigError(
                f"{window.clip.key}: {size} does not fit into the memory of {device} whole, and"
                ' cache.vae_tiling = "off" forbids tiles; use "auto", a smaller size or a larger'
                " GPU"
            )
        logger.warning(
            "%s does not fit into the memory of %s whole; from now on its latents are encoded in"
            " tiles",
            size,
            device,
        )
        mark_tiled(self._store, size, vae=window.key.vae_fingerprint, dtype=window.key.dtype)
        self.tiled.add(size)
