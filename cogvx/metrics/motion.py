"""How much a video moves and how smoothly, by Farneback's optical flow and by interpolation.

Flow is that of a small copy, short side at most 64. There Farneback's window spans a whole object:
in full size the inside of a flat shape has nothing to follow and gets wild speeds or none.
On flat shapes of known speed this reads between 0.85 and 1.15 of the truth, at any size of video;
on textured pictures up to a tenth of the short side a frame, 1 to 1.05, below a hundredth 1.2.
"""

from itertools import pairwise

import cv2
import numpy as np

from cogvx.metrics.metric import Grey, Rgb
from cogvx.metrics.pixels import LUMA, Floats, absolute_difference

_SHORT_SIDE = 256  # speeds are told as if the short side were this, as VBench's thresholds are
_FLOW_SIDE = 64
_MOVED_SHARE = 0.05
_DYNAMIC_SPEED = 6.0
_DYNAMIC_FPS = 8


def shrunk(rgb_fhwc: Rgb) -> Grey:
    """Luma with a short side of at most 64, `(f, h, w)`; smaller frames keep their size."""
    return np.stack([_shrunk(frame) for frame in rgb_fhwc])


def speeds(grey_fhw: Grey) -> Floats:
    """Speed of the fastest 5 % of the pixels between each frame and the next.

    Args:
        grey_fhw: What `shrunk` made of the frames.

    Returns:
        `(f - 1,)`, pixels a frame as if the short side were 256; empty for a single frame.

    Source: Farneback 2003 in OpenCV, which gives the same bits from version to version.
    """
    scale = _SHORT_SIDE / min(grey_fhw.shape[1:])
    return np.array([scale * _top_speed(*pair) for pair in pairwise(grey_fhw)], dtype=np.float64)


def motion_magnitude(speeds_f: Floats) -> float:
    """Mean of `speeds`: the continuous form of VBench's dynamic degree.

    A single frame scores 0.

    Source: VBench `dynamic_degree.py`, top 5 % of the flow, with Farneback in RAFT's place.
    """
    return float(speeds_f.mean()) if len(speeds_f) else 0.0


def dynamic_step(fps: float) -> int:
    """Of how many frames one is looked at for the dynamic degree: 8 a second."""
    return max(round(fps / _DYNAMIC_FPS), 1)


def dynamic_degree(speeds_f: Floats) -> float:
    """VBench's dynamic degree with Farneback's flow: 1 where the video moves, else 0.

    A quarter as many pairs as there are frames must be faster than 6 pixels of 256.

    Args:
        speeds_f: Of every `dynamic_step`-th frame.

    Source: VBench `dynamic_degree.py`.
    """
    frames = len(speeds_f) + 1
    moving = int((speeds_f > _DYNAMIC_SPEED).sum())
    # a video too short for one pair to be asked for does not move
    return float(moving >= max(round(4 * frames / 16), 1))


def motion_smoothness(rgb_fhwc: Rgb) -> float:
    """VBench's motion smoothness, with the mean of both neighbours in AMT's place.

    In 0..1: (255 - mean absolute error of the odd frames, guessed from the even ones) / 255, the
    guess cut to whole grey levels. Fewer than three frames score 1.

    Source: VBench `motion_smoothness.py`; AMT's weights may not be used commercially.
    """
    if len(rgb_fhwc) < 3:
        return 1.0
    errors = []
    for odd in range(1, len(rgb_fhwc) - 1, 2):
        before, truth, after = rgb_fhwc[odd - 1], rgb_fhwc[odd], rgb_fhwc[odd + 1]
        # the mean rounded down, within 8 bits: what both have, and half of what one has
        guess = (before & after) + ((before ^ after) >> 1)
        errors.append(absolute_difference(truth, guess))
    return float((255.0 - np.mean(errors)) / 255.0)


def _shrunk(rgb_hwc: Rgb) -> Grey:
    grey_hw: Grey = np.asarray(cv2.transform(rgb_hwc, LUMA[None]), dtype=np.uint8)
    height, width = grey_hw.shape
    scale = _FLOW_SIDE / min(height, width)
    if scale >= 1:
        return grey_hw
    size = (round(width * scale), round(height * scale))
    return np.asarray(cv2.resize(grey_hw, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _top_speed(before_hw: Grey, after_hw: Grey) -> float:
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
