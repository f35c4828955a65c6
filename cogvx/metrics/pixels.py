"""What the pixels themselves tell: calm, colours, and whether there is a picture at all.

Metrics are computed on frames decoded from the stored mp4, never on the frames before encoding:
H.264 alone moves some of them by as much as an adapter does. A video is `rgb_fhwc` in uint8, with
at least one frame. It is walked frame by frame in whole numbers, so that sums are exact, no order
of adding matters, and nothing as large as the video is made beside it.
"""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from cogvx.metrics.metric import Rgb

# Rec. 709, what H.264 players assume for brightness.
LUMA = np.array([0.2126, 0.7152, 0.0722])
_BLACK = 4
_FLAT = 1.0
FLAT, FROZEN = "is one flat colour", "is frozen: all its frames are equal"
"""Faults that a sound model can have, unlike black."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Colours:
    """How the channels of every frame are spread.

    `mean_fc` and `covariance_fcc` are over a frame's pixels, in grey levels and their squares;
    `highest` is the largest value of all.
    """

    mean_fc: Floats
    covariance_fcc: Floats
    highest: int


def changes(rgb_fhwc: Rgb) -> Floats:
    """Mean absolute difference between each frame and the next; `(f - 1,)`, grey levels."""
    pairs = pairwise(rgb_fhwc)
    return np.array([absolute_difference(*pair) for pair in pairs], dtype=np.float64)


def colours(rgb_fhwc: Rgb) -> Colours:
    """Means and covariances of the channels, from exact sums."""
    means, covariances = [], []
    for frame in rgb_fhwc:
        rgb_pc = np.ascontiguousarray(frame).reshape(-1, 3)
        count = len(rgb_pc)
        # Python's own integers: count times a sum of squares outgrows 64 bits in 8K
        sum_c = np.array([int(total) for total in cv2.sumElems(frame)[:3]], dtype=object)
        squares_cc = cv2.mulTransposed(rgb_pc, aTa=True, dtype=cv2.CV_64F).astype(np.int64)
        scatter_cc = count * squares_cc.astype(object) - np.outer(sum_c, sum_c)
        means.append((sum_c / count).astype(np.float64))
        covariances.append((scatter_cc / count**2).astype(np.float64))
    return Colours(np.stack(means), np.stack(covariances), int(rgb_fhwc.max()))


def absolute_difference(one_hwc: Rgb, other_hwc: Rgb) -> float:
    """Mean absolute difference of two frames, 0 to 255, from an exact sum."""
    return cv2.norm(one_hwc, other_hwc, cv2.NORM_L1) / one_hwc.size


def temporal_flickering(changes_f: Floats) -> float:
    """VBench's temporal flickering: (255 - mean absolute change between frames) / 255.

    In 0..1, more is calmer; a single frame scores 1.

    Source: VBench `temporal_flickering.py`, on all adjacent pairs at the video's own size.
    """
    return float((255.0 - changes_f.mean()) / 255.0) if len(changes_f) else 1.0


def brightness(found: Colours) -> float:
    """Mean luma, 0 (black) to 255 (white).

    Source: Rec. 709 weights on the stored (non-linear) values.
    """
    return float((found.mean_fc @ LUMA).mean())


def contrast(found: Colours) -> float:
    """Standard deviation of luma within a frame, averaged over frames; 0..127.5.

    An overcooked adapter drives it up, a collapsed one down.

    Source: root-mean-square contrast; the variance of a weighted sum of channels is w' C w.
    """
    variance_f = np.einsum("c,fcd,d->f", LUMA, found.covariance_fcc, LUMA)
    return float(np.sqrt(np.maximum(variance_f, 0.0)).mean())


def saturation(rgb_fhwc: Rgb) -> float:
    """Mean of (max - min) / max over the channels, as in HSV; 0..1, and 0 for black.

    Too much guidance or too strong an adapter raises it.

    Source: HSV saturation.
    """
    high_hl, low_hl = np.indices((256, 256), dtype=np.float64)
    saturation_hl = (high_hl - low_hl) / np.maximum(high_hl, 1.0)
    total = 0.0
    for frame in rgb_fhwc:
        red, green, blue = cv2.split(frame)
        high = cv2.max(cv2.max(red, green), blue)
        low = cv2.min(cv2.min(red, green), blue)
        # so many pixels have this highest and that lowest channel
        count_hl = cv2.calcHist([high, low], [0, 1], None, [256, 256], [0, 256, 0, 256])
        total += float((count_hl * saturation_hl).sum())
    return total / (rgb_fhwc.size // 3)


def sanity_faults(changes_f: Floats, found: Colours) -> tuple[str, ...]:
    """What makes a video worthless whatever its metrics say: frozen, black, or one flat colour.

    A generator that meets NaN writes black frames, so black is how NaN shows in an mp4.
    """
    faults = []
    if found.highest <= _BLACK:
        faults.append("is black, which is how NaN in the model shows")
    elif np.einsum("fcc->fc", found.covariance_fcc).max() < _FLAT**2:
        faults.append(FLAT)
    if len(changes_f) and not changes_f.any():
        faults.append(FROZEN)
    return tuple(faults)
