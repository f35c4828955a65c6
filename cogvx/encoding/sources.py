"""From the plan's windows to pixels: fetch a clip once, verify it, decode each of its windows."""

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cogvx.cache.keys import ImageKey, LatentKey
from cogvx.data.decode import decode_window
from cogvx.data.manifest import Clip, Refused
from cogvx.data.probe import Track, read_track
from cogvx.data.windows import crop_rule
from cogvx.digest import sha256_bytes, sha256_file
from cogvx.errors import CogvxError, ConfigError, DataError, IntegrityError, TransientError
from cogvx.shapes import VideoSize
from cogvx.store import ObjectStore, reached


@dataclass(frozen=True)
class Window:
    """One window of one clip, and the keys of the records that it lacks."""

    clip: Clip
    key: LatentKey
    latents: bool
    images: tuple[ImageKey, ...]


@dataclass(frozen=True)
class Pixels:
    """A decoded window in [-1, 1].

    `rgb_cfhw` is in the VAE's precision, which halves what waits in memory; the first frame is in
    float32, because noise is added to it before it is rounded. Each is None if nothing needs it.
    """

    rgb_cfhw: Tensor | None
    first_chw: Tensor | None


@dataclass(frozen=True)
class _Footage:
    """A clip's verified file and what was read in it, once for all of its windows."""

    path: Path
    track: Track


class Sources:
    """Decodes windows, on many threads; windows of one clip share one copy of it."""

    _left: Counter[str]
    _brought: dict[str, Future[_Footage | Refused]]

    def __init__(
        self, dataset: ObjectStore, folder: Path, windows: Iterable[Window], *, dtype: torch.dtype
    ) -> None:
        """Every window will be read once; a clip's copy below `folder` goes with the last."""
        self._dataset = dataset
        self._folder = folder
        self._dtype = dtype
        self._left = Counter(window.clip.key for window in windows)
        self._brought = {}
        self._lock = threading.Lock()

    def read(self, window: Window) -> Pixels | Refused:
        """A window's pixels, or why there are none.

        Raises:
            TransientError: The dataset did not answer this time.
            ConfigError: The copy cannot be written.
        """
        try:
            found = self._bring(window.clip)
            return found if isinstance(found, Refused) else self._decode(found, window)
        finally:
            self._let_go(window.clip.key)

    def skip(self, window: Window) -> None:
        """Say that a window is not read after all."""
        self._let_go(window.clip.key)

    def _bring(self, clip: Clip) -> _Footage | Refused:
        """The clip's file; of several threads that ask for it the first one fetches it."""
        with self._lock:
            known = self._brought.get(clip.key)
            brought = self._brought.setdefault(clip.key, Future())
        if known is None:
            try:
                brought.set_result(self._fetch(clip))
            except CogvxError as error:
                brought.set_exception(error)
            finally:
                brought.cancel()  # whatever else happened, nobody waits for it for ever
        return brought.result()

    def _fetch(self, clip: Clip) -> _Footage | Refused:
        folder = self._copy(clip.key)

        def fetch() -> Path:
            folder.mkdir(parents=True)
            return self._dataset.fetch(clip.key, folder)

        path = self._verified(clip, fetch)
        if isinstance(path, Refused):
            return path
        try:
            return _Footage(path, read_track(path))
        except DataError as error:
            return self._condemned(clip, path, error)

    def _verified(self, clip: Clip, find: Callable[[], Path]) -> Path | Refused:
        """The file that is found, if it holds what the record's name promises."""
        try:
            path = find()
            with reached(self._dataset, clip.key):
                if sha256_file(path) == clip.sha256:
                    return path
            return _refused(clip, "changed", f"{clip.key} has changed since the manifest was made")
        except (IntegrityError, FileNotFoundError) as error:
            return _refused(clip, "missing", str(error))
        except PermissionError as error:
            return _refused(clip, "forbidden", str(error))
        except TransientError as error:
            raise TransientError(f"{clip.key}: {error}") from error
        except OSError as error:
            folder = self._copy(clip.key)
            raise ConfigError(f"{clip.key} cannot be copied to {folder}: {error}") from error

    def _condemned(self, clip: Clip, path: Path, error: DataError) -> Refused:
        """The verdict on a file that does not decode, unless it is no longer the same file.

        A clip that is read where it lies may go, change or be forbidden at any time.
        """
        still = self._verified(clip, lambda: path)
        if isinstance(still, Refused):
            return still
        return _refused(clip, "undecodable", str(error))

    def _decode(self, footage: _Footage, window: Window) -> Pixels | Refused:
        clip, size = window.clip, window.clip.size
        if not window.latents:
            size = VideoSize(1, size.height, size.width)
        try:
            rgb_cfhw = decode_window(
                footage.path,
                footage.track,
                start_frame=clip.start_frame,
                size=size,
                fps=window.key.fps,
                crop=crop_rule(clip),
                flip=clip.flip,
            )
        except DataError as error:
            return self._condemned(clip, footage.path, error)
        return Pixels(
            rgb_cfhw=rgb_cfhw.to(self._dtype) if window.latents else None,
            first_chw=rgb_cfhw[:, 0].clone() if window.images else None,
        )

    def _let_go(self, key: str) -> None:
        with self._lock:
            self._left[key] -= 1
            last = not self._left[key]
            if last:
                self._brought.pop(key, None)
        if last:
            # Only a copy: a clip that is read where it lies is somewhere else.
            shutil.rmtree(self._copy(key), ignore_errors=True)

    def _copy(self, key: str) -> Path:
        return self._folder / sha256_bytes(key.encode())[:16]


def _refused(clip: Clip, reason: str, detail: str) -> Refused:
    return Refused(key=clip.key, sha256=clip.sha256, reason=reason, detail=detail)
