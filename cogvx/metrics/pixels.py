"""What the pixels themselves tell: calm, colours, and whether there is a picture at all.

Metrics are computed on frames decoded from the stored mp4, never on the frames before encoding:
H.264 alone moves some of them by as much as an adapter does. Every function takes
`rgb_fhwc` uint8, at least one frame.
"""

import numpy as np
from numpy.typing import NDArray

from cogvx.metrics.metric import Rgb

# Rec. 709, what H.264 players assume for brightness.
_LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
_BLACK = 4.0
_FLAT = 1.0


def luma(rgb: Rgb) -> NDArray[np.float32]:
    """Brightness of every pixel, 0 to 255; the channels are the last axis and vanish."""
    return rgb.astype(np.float32) @ _LUMA


def temporal_flickering(rgb_fhwc: Rgb) -> float:
    """VBench's temporal flickering: (255 - mean absolute change between frames) / 255.

    In 0..1, more is calmer; a single frame scores 1.

    Source: VBench `temporal_flickering.py`, on all adjacent pairs at the video's own size.
    """
    if len(rgb_fhwc) < 2:
        return 1.0
    frames = rgb_fhwc.astype(np.float32)
    change = np.abs(frames[1:] - frames[:-1]).mean(axis=(1, 2, 3), dtype=np.float64)
    return float((255.0 - change.mean()) / 255.0)


def brightness(rgb_fhwc: Rgb) -> float:
    """Mean luma, 0 (black) to 255 (white).

    Source: Rec. 709 weights on the stored (non-linear) values.
    """
    return float(luma(rgb_fhwc).mean(dtype=np.float64))


def contrast(rgb_fhwc: Rgb) -> float:
    """Standard deviation of luma within a frame, averaged over frames; 0..127.5.

    An overcooked adapter drives it up, a collapsed one down.

    Source: root-mean-square contrast.
    """
    return float(luma(rgb_fhwc).std(axis=(1, 2), dtype=np.float64).mean())


def saturation(rgb_fhwc: Rgb) -> float:
    """Mean of (max - min) / max over the channels, as in HSV; 0..1.

    Too much guidance or too strong an adapter raises it.

    Source: HSV saturation.
    """
    high = rgb_fhwc.max(axis=3).astype(np.float32)
    low = rgb_fhwc.min(axis=3).astype(np.float32)
    return float(((high - low) / np.maximum(high, 1.0)).mean(dtype=np.float64))


def sanity_faults(rgb_fhwc: Rgb) -> tuple[str, ...]:
    """What makes a video worthless whatever its metrics say: frozen, black, or one flat colour.

    A generator that meets NaN writes black frames, so black is how NaN shows in an mp4.
    """
    faults = []
    if float(rgb_fhwc.max()) <= _BLACK:
        faults.append("is black, which is how NaN in the model shows")
    elif float(rgb_fhwc.astype(np.float32).std(axis=(1, 2)).max()) < _FLAT:
        faults.append("is one flat colour")
    if len(rgb_fhwc) > 1 and np.array_equal(rgb_fhwc[1:], rgb_fhwc[:-1]):
        faults.append("is frozen: all its frames are equal")
    return tuple(faults)
