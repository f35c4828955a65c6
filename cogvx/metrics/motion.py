"""How much a video moves and how smoothly, by Farneback's optical flow and by interpolation.

Flow is that of a small copy, short side at most 64. There Farneback's window spans a whole object:
in full size the inside of a flat shape has nothing to follow and gets wild speeds or none.
On flat shapes of known speed this reads between 0.85 and 1.15 of the truth, at any size of video;
on textured pictures up to a tenth of the short side a frame, 1 to 1.05, below a hundredth 1.2.
"""

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from cogvx.metrics.metric import Rgb
from cogvx.metrics.pixels import luma

_SHORT_SIDE = 256  # speeds are told as if the short side were this, as VBench's thresholds are
_FLOW_SIDE = 64
_MOVED_SHARE = 0.05
_DYNAMIC_SPEED = 6.0
_DYNAMIC_FPS = 8


def speeds(rgb_fhwc: Rgb) -> NDArray[np.float64]:
    """Speed of the fastest 5 % of the pixels between each frame and the next.

    Returns:
        `(f - 1,)`, pixels a frame as if the short side were 256; empty for a single frame.

    Source: Farneback 2003 in OpenCV, which gives the same bits from version to version.
    """
    small_fhw = [_shrunk(frame) for frame in rgb_fhwc]
    short = min(small_fhw[0].shape)
    scale = _SHORT_SIDE / short
    return np.array([scale * _top_speed(*pair) for pair in pairwise(small_fhw)], dtype=np.float64)


def motion_magnitude(rgb_fhwc: Rgb) -> float:
    """Mean over adjacent frames of `speeds`: the continuous form of VBench's dynamic degree.

    A single frame scores 0.

    Source: VBench `dynamic_degree.py`, top 5 % of the flow, with Farneback in RAFT's place.
    """
    found = speeds(rgb_fhwc)
    return float(found.mean()) if len(found) else 0.0


def dynamic_degree(rgb_fhwc: Rgb, fps: float) -> float:
    """VBench's dynamic degree with Farneback's flow: 1 where the video moves, else 0.

    Looked at 8 times a second, a quarter as many pairs as there are frames must be faster than
    6 pixels of 256.

    Source: VBench `dynamic_degree.py`.
    """
    frames = rgb_fhwc[:: max(round(fps / _DYNAMIC_FPS), 1)]
    moving = int((speeds(frames) > _DYNAMIC_SPEED).sum())
    # a video too short for one pair to be asked for does not move
    return float(moving >= max(round(4 * len(frames) / 16), 1))


def motion_smoothness(rgb_fhwc: Rgb) -> float:
    """VBench's motion smoothness, with the mean of both neighbours in AMT's place.

    In 0..1: (255 - mean absolute error of the odd frames, guessed from the even ones) / 255, the
    guess cut to whole grey levels. Fewer than three frames score 1.

    Source: VBench `motion_smoothness.py`; AMT's weights may not be used commercially.
    """
    if len(rgb_fhwc) < 3:
        return 1.0
    even = rgb_fhwc[::2].astype(np.uint16)
    guess = ((even[:-1] + even[1:]) // 2).astype(np.float32)
    error = np.abs(rgb_fhwc[1::2][: len(guess)].astype(np.float32) - guess)
    return float((255.0 - error.mean(axis=(1, 2, 3), dtype=np.float64).mean()) / 255.0)


def _shrunk(rgb_hwc: Rgb) -> NDArray[np.uint8]:
    """Luma with a short side of at most 64; a smaller frame keeps its size."""
    grey: NDArray[np.uint8] = np.rint(luma(rgb_hwc)).astype(np.uint8)
    height, width = grey.shape
    scale = _FLOW_SIDE / min(height, width)
    if scale >= 1:
        return grey
    size = (round(width * scale), round(height * scale))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _top_speed(before_hw: NDArray[np.uint8], after_hw: NDArray[np.uint8]) -> float:
    """Mean length of the longest twentieth of the flow vectors, in the copies' pixels."""
    flow_hw2 = cv2.calcOpticalFlowFarneback(
        before_hw,
        after_hw,
        None,
        pyr_scale=0.5,
        levels=3,
        winsize=21,
        iterations=3,
        poly_n=5,
        poly_sigma=1.2,
        flags=0,
    )
    lengths = np.sort(np.linalg.norm(flow_hw2, axis=2), axis=None)
    return float(lengths[-max(int(_MOVED_SHARE * lengths.size), 1) :].mean(dtype=np.float64))
