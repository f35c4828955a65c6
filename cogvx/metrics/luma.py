"""Tiny grey copies of videos: what they are compared by when no network is at hand.

Eight middle frames of 16 x 16 hold where light and dark are and how that moves, and nothing of
colour, texture or who is in the picture.
"""

from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from cogvx.metrics.metric import Rgb
from cogvx.metrics.pixels import LUMA
from cogvx.metrics.similarity import Rows, Unit, middle_frames, unit_rows

_SIDE = 16
# A frame with less spread, in grey levels, is flat: what is left there is rounding and the coder's.
_FLAT = 2.0


class Thumbnails:
    """Gives videos' grey copies as `Encoder` gives features, so that they are kept as those are."""

    @property
    def identity(self) -> str:
        """Names everything that decides them; a change of it makes all of them anew."""
        return "luma of 8 middle frames, Rec. 709, area means in 16x16, version 1"

    def features(self, rgb_fhwc: Rgb) -> NDArray[np.float32]:
        """`(8, 256)`, 0..255, whole grey levels: each row a middle frame, squeezed into a square.

        Source: area means of OpenCV.
        """
        return np.stack([_thumbnail(rgb_fhwc[n]) for n in middle_frames(len(rgb_fhwc))])


def luma_rows(grey_fd: Rows) -> Unit:
    """Thumbnails as unit rows, whose products are normalised cross-correlations.

    Each frame without its mean. Flat frames are left out: without variance there is no correlation,
    and next to none it would be one of roundings.
    """
    rows_fd = grey_fd.astype(np.float64)
    rows_fd = rows_fd - rows_fd.mean(axis=1, keepdims=True)
    return unit_rows(rows_fd[rows_fd.std(axis=1) >= _FLAT])


def mean_difference(videos: Sequence[Rows]) -> float | None:
    """Mean over all pairs of videos of how far their thumbnails are apart; None below two.

    Mean absolute difference, frame by frame, in 0..1 of the grey scale. Not a correlation: of a
    model that gives flat frames whatever the seed that would find every pair unlike.
    """
    pairs = [float(np.abs(one - other).mean()) / 255 for one, other in combinations(videos, 2)]
    return sum(pairs) / len(pairs) if pairs else None


def _thumbnail(rgb_hwc: Rgb) -> NDArray[np.float32]:
    grey_hw = cv2.transform(np.ascontiguousarray(rgb_hwc), LUMA[None])
    small_hw = cv2.resize(grey_hw, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small_hw, dtype=np.float32).ravel()
