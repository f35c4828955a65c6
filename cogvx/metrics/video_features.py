"""What networks see in one video, each asked once, and the numbers that follow from it alone."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from cogvx.metrics.consistency import consistency
from cogvx.metrics.encoder_set import EncoderSet
from cogvx.metrics.encoders import Encoder
from cogvx.metrics.features import FrameEncoder, Middle, features_of
from cogvx.metrics.learned import AESTHETIC, CONSISTENCY, text_alignment_name
from cogvx.metrics.metric import Rgb
from cogvx.metrics.similarity import Rows, mean_cosine, middle_frames
from cogvx.store import ObjectStore

Features = NDArray[np.float32]


class VideoFeatures:
    """Features of a video's frames, from a store or from the networks and then into the store."""

    def __init__(self, sha256: str, frames: Callable[[], Rgb], store: ObjectStore) -> None:
        """`sha256` is of the video's file; `frames` decodes it, and may never be called."""
        self._sha256 = sha256
        self._frames = frames
        self._store = store
        self._known: dict[str, Features] = {}

    def whole(self, encoder: FrameEncoder) -> Features:
        """Of every frame, `(f, d)`."""
        if encoder.identity not in self._known:
            self._known[encoder.identity] = features_of(
                self._frames, self._sha256, encoder=encoder, store=self._store
            )
        return self._known[encoder.identity]

    def middle(self, encoder: Encoder) -> Features:
        """Of the eight middle frames.

        Where the whole video is looked at in any case, they are taken from there.
        """
        if encoder.kind not in CONSISTENCY:
            return self.whole(Middle(encoder))
        rows_fd = self.whole(encoder)
        return rows_fd[list(middle_frames(len(rows_fd)))]


def values_of(
    video: VideoFeatures, encoders: EncoderSet, texts: Mapping[str, Rows]
) -> dict[str, float]:
    """Every metric of one video that needs networks and nothing beside it, by name.

    Args:
        video: Its features.
        encoders: The networks.
        texts: What the video should show, as features by kind of network.
    """
    found = {
        CONSISTENCY[kind].name: consistency(video.whole(encoder))
        for kind, encoder in encoders.images.items()
        if kind in CONSISTENCY
    }
    for kind, text_d in texts.items():
        rows_fd = video.middle(encoders.images[kind])
        found[text_alignment_name(kind)] = mean_cosine(rows_fd, text_d)
    if encoders.aesthetic is not None:
        rows_fd = video.whole(encoders.aesthetic.encoder)
        found[AESTHETIC] = encoders.aesthetic.score(rows_fd)
    return found
