"""Features of training and held-out clips: of the very pixels that training saw, kept by content.

They come from the source clips and not from cached latents: that needs no model and no GPU, and a
comparison with videos is not blurred by the VAE.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from cogvx.cache.keys import FRAME_SAMPLER, RESIZE
from cogvx.cache.plan import Identities, latent_key
from cogvx.data.manifest import Clip, Manifest, Refused
from cogvx.data.scratch import scratch_folder
from cogvx.digest import digest
from cogvx.encoding.clips import decoding_threads
from cogvx.encoding.read_ahead import read_ahead
from cogvx.encoding.sources import Sources, Window
from cogvx.errors import IntegrityError
from cogvx.metrics.features import FrameEncoder, features_key, features_of
from cogvx.metrics.metric import Rgb
from cogvx.metrics.similarity import Rows
from cogvx.model.encode import to_pixels
from cogvx.recipe import Recipe
from cogvx.store import ObjectStore

logger = logging.getLogger(__name__)

_LOOKING = 16
_SHOWN = 3


@dataclass(frozen=True)
class ClipRows:
    """Reads windows of a dataset as an encoder sees them.

    Attributes:
        recipe: Says the frame rate.
        ids: Of the base that the recipe names.
        dataset: Where the clips lie.
        store: Where what was read is kept.
        work: For copies of clips on their way; none is left there.
    """

    recipe: Recipe
    ids: Identities
    dataset: ObjectStore
    store: ObjectStore
    work: Path

    def of(
        self,
        windows: Sequence[Clip],
        encoder: FrameEncoder,
        *,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> tuple[tuple[str, Rows], ...]:
        """Clip and features of every window; a window is decoded only if its are not kept.

        A clip that is gone or changed since it was cached is left out, with a warning, whether or
        not its features are kept: what is found must not depend on what was looked at before.

        Args:
            windows: Of a manifest.
            encoder: Given all frames of a window.
            on_progress: Called with windows done and windows to decode.

        Raises:
            TransientError: The dataset or the store did not answer this time.
            IntegrityError: Kept features are damaged; the message names the object to remove.
        """
        keys = list(dict.fromkeys(window.key for window in windows))
        with ThreadPoolExecutor(_LOOKING) as pool:
            stamps = dict(zip(keys, pool.map(self._stamp, keys), strict=True))
            contents = [self._content(window, stamps[window.key]) for window in windows]
            names = dict(zip(contents, windows, strict=True))
            there = [name for name, window in names.items() if stamps[window.key] is not None]
            kept = dict(zip(there, pool.map(self._kept(encoder), there), strict=True))
        found = {name: rows_fd for name, rows_fd in kept.items() if rows_fd is not None}
        missing = {name: window for name, window in names.items() if name not in found}
        found |= self._decode(missing, encoder, on_progress) if missing else {}
        return tuple(
            (window.key, found[content])
            for window, content in zip(windows, contents, strict=True)
            if content in found
        )

    def _stamp(self, key: str) -> str | None:
        """Another one when a clip may have changed; None where it is gone or must not be read."""
        try:
            info = self.dataset.info(key)
        except (IntegrityError, PermissionError):
            return None
        return None if info is None else f"{info.size} {info.stamp}"

    def _content(self, window: Clip, stamp: str | None) -> str:
        """Names a window's pixels, as the sha256 of a file names those of a video."""
        return digest(
            {
                "source": window.sha256,
                "stamp": stamp,
                "sampler": FRAME_SAMPLER,
                "resize": RESIZE,
                "start_frame": window.start_frame,
                "fps": self.recipe.video.fps,
                "size": str(window.size),
                "crop": window.crop,
                "flip": window.flip,
            }
        )

    def _kept(self, encoder: FrameEncoder) -> Callable[[str], Rows | None]:
        def find(content: str) -> Rows | None:
            if self.store.info(features_key(content, encoder)) is None:
                return None
            return features_of(_never, content, encoder=encoder, store=self.store)

        return find

    def _decode(
        self,
        missing: Mapping[str, Clip],
        encoder: FrameEncoder,
        on_progress: Callable[[int, int], None],
    ) -> dict[str, Rows]:
        windows = [
            Window(clip, latent_key(clip, self.recipe, self.ids), latents=True, images=())
            for clip in missing.values()
        ]
        threads = min(decoding_threads(clip.size) for clip in missing.values())
        found: dict[str, Rows] = {}
        refused: dict[str, str] = {}
        with scratch_folder(self.work, "rows") as folder:
            sources = Sources(self.dataset, folder, windows, dtype=torch.float32)

            def read(window: Window) -> Rgb | Refused:
                pixels = sources.read(window)
                if isinstance(pixels, Refused):
                    return pixels
                assert pixels.rgb_cfhw is not None  # it was asked for
                return to_pixels(pixels.rgb_cfhw)

            with closing(read_ahead(read, windows, threads=threads, ahead=threads + 1)) as decoded:
                for done, (content, frames) in enumerate(zip(missing, decoded, strict=True), 1):
                    if isinstance(frames, Refused):
                        refused[frames.key] = frames.detail
                    else:
                        found[content] = self._read(frames, content, encoder)
                    on_progress(done, len(missing))
        _warn_of(refused)
        return found

    def _read(self, rgb_fhwc: Rgb, content: str, encoder: FrameEncoder) -> Rows:
        return features_of(lambda: rgb_fhwc, content, encoder=encoder, store=self.store)


def remarks_of_lost(windows: Sequence[Clip], found: Sequence[tuple[str, Rows]]) -> tuple[str, ...]:
    """What a verdict must say of clips that could not be looked at; nothing if there are none.

    Args:
        windows: That were asked for.
        found: What `ClipRows.of` found of them.
    """
    lost = Counter(window.key for window in windows) - Counter(clip for clip, _ in found)
    if not lost:
        return ()
    shown = "; ".join([*lost][:_SHOWN]) + ("; ..." if len(lost) > _SHOWN else "")
    told = (
        f"{len(lost)} of {Manifest.count_clips(windows)} clips are gone from the dataset, changed"
        f" or damaged ({shown}). Videos are compared with the others alone, so a copy of one of"
        " these would not be found; put them back and evaluate again."
    )
    return (told,)


def _never() -> Rgb:
    raise AssertionError("features vanished from the store while they were read")


def _warn_of(refused: Mapping[str, str]) -> None:
    if refused:
        shown = "; ".join([*refused.values()][:_SHOWN])
        logger.warning("no video can be compared with %d clip(s): %s", len(refused), shown)
