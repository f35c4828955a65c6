"""Features of videos in a store, so that no network sees the same frames twice.

The key holds what decides the numbers: the file's sha256, and the encoder's identity. An object is
a line of JSON (its shape, and the sha256 of what follows) and the float32 rows, little-endian.
"""

import json
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cogvx.digest import canonical_json, digest, sha256_bytes
from cogvx.errors import IntegrityError
from cogvx.metrics.metric import Rgb
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


def features_key(video_sha256: str, encoder: FrameEncoder) -> str:
    """Where a video's features lie."""
    name = digest({"schema": 1, "video": video_sha256, "encoder": encoder.identity})
    return f"features/{name[:2]}/{name}"


def features_of(
    rgb_fhwc: Rgb, video_sha256: str, *, encoder: FrameEncoder, store: ObjectStore
) -> NDArray[np.float32]:
    """A video's features, from the store or else from the network and then into the store.

    Args:
        rgb_fhwc: All frames, decoded.
        video_sha256: Of the file that they come from.
        encoder: The network.
        store: Where features are kept.

    Raises:
        IntegrityError: The store holds damaged features; the message names the object to remove.
    """
    key = features_key(video_sha256, encoder)
    if store.info(key) is not None:
        return _unpacked(read_checked(store, key, lambda data: _check(data, key)))
    found = np.ascontiguousarray(encoder.features(rgb_fhwc), dtype="<f4")
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
