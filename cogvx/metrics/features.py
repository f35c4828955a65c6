"""Features of videos in a store, so that no network sees the same frames twice.

The key holds what decides the numbers: what the frames are of, such as the file's sha256, what
decodes and resizes them, and the encoder's identity. An object is a line of JSON (its shape, and
the sha256 of what follows) and the float32 rows, little-endian.
"""

import json
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cogvx.digest import canonical_json, digest, sha256_bytes
from cogvx.errors import IntegrityError
from cogvx.metrics.identity import tools
from cogvx.metrics.metric import Rgb
from cogvx.metrics.similarity import MIDDLE_FRAMES, middle_frames
from cogvx.store import ObjectStore, read_checked


class FrameEncoder(Protocol):
    """What gives features; `cogvx.metrics.encoders.Encoder` does."""

    @property
    def identity(self) -> str:
        """Names everything that decides the features of a frame."""
        ...

    def features(self, rgb_fhwc: Rgb) -> NDArray[np.float32]:
        """`(f, d)`."""
        ...


class Middle:
    """An encoder that looks only at the eight frames that stand for a video."""

    def __init__(self, encoder: FrameEncoder) -> None:
        """`encoder` sees them."""
        self._encoder = encoder

    @property
    def identity(self) -> str:
        """Another one than of all frames."""
        return digest({"middle": MIDDLE_FRAMES, "encoder": self._encoder.identity})

    def features(self, rgb_fhwc: Rgb) -> NDArray[np.float32]:
        """`(8, d)`, of all frames of a video."""
        return self._encoder.features(rgb_fhwc[list(middle_frames(len(rgb_fhwc)))])


def features_key(content: str, encoder: FrameEncoder) -> str:
    """Where the features of some frames lie; `content` is a digest of all that decides them."""
    parts = {"video": content, "encoder": encoder.identity, "tools": tools()}
    name = digest({"schema": 2, **parts})
    return f"features/{name[:2]}/{name}"


def features_of(
    frames: Callable[[], Rgb], content: str, *, encoder: FrameEncoder, store: ObjectStore
) -> NDArray[np.float32]:
    """Features of frames, from the store or else from the network and then into the store.

    Args:
        frames: Gives the frames; asked only where the store knows no features.
        content: Names the frames: the sha256 of a file for all of its frames.
        encoder: The network.
        store: Where features are kept.

    Raises:
        IntegrityError: The store holds damaged features, and the message names the object to
            remove; or the network gives numbers that are not finite.
    """
    key = features_key(content, encoder)
    if store.info(key) is not None:
        return _unpacked(read_checked(store, key, lambda data: _check(data, key)))
    found = np.ascontiguousarray(encoder.features(frames()), dtype="<f4")
    if not np.isfinite(found).all():
        raise IntegrityError("a network gave features that are not finite; its files are damaged")
    store.write(key, _packed(found))
    return found


def _packed(features_fd: NDArray[np.float32]) -> bytes:
    rows = features_fd.tobytes()
    head = {"shape": list(features_fd.shape), "sha256": sha256_bytes(rows)}
    return canonical_json(head) + b"\n" + rows


def _check(data: bytes, key: str) -> None:
    head, _, rows = data.partition(b"\n")
    try:
        sound = json.loads(head)["sha256"] == sha256_bytes(rows)
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise IntegrityError(f"{key} is damaged; remove it, and it is computed anew")


def _unpacked(data: bytes) -> NDArray[np.float32]:
    head, _, rows = data.partition(b"\n")
    return np.frombuffer(rows, dtype="<f4").reshape(json.loads(head)["shape"])
