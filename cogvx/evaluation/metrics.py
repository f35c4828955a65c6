"""What is measured on a generated video without any learned network, and when each number lies.

Metrics are computed on frames decoded from the stored mp4, never on the frames before encoding:
H.264 alone moves some of them by as much as an adapter does. Every function takes
`rgb_fhwc` uint8, at least one frame, and returns one number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]

HELDOUT_LOSS = "heldout_loss"

# Rec. 709, what H.264 players assume for brightness.
_LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
_SHORT_SIDE = 256
_BLOCKS_ACROSS = 8
_MOVED_SHARE = 0.05
# A block counts as moved only if it then fits better by one grey level per pixel: without this,
# flat areas move at random with the coder's noise.
_GAIN_NEEDED = 1.0
_BLACK = 4.0
_FLAT = 1.0


@dataclass(frozen=True)
class Metric:
    """A number and how to read it.

    `direction` is +1 where more is better, -1 where less is, 0 where any change is a departure.
    `short` is for captions under videos.
    A metric of kind "video" is averaged over the seeds of a prompt; "heldout" is per clip.
    """

    name: str
    short: str
    unit: str
    direction: Literal[-1, 0, 1]
    kind: Literal["video", "heldout"]
    about: str
    measure: Callable[[Rgb], float] | None = None


def temporal_flickering(rgb_fhwc: Rgb) -> float:
    """VBench's temporal flickering: (255 - mean absolute change between frames) / 255.

    In 0..1, more is calmer; a single frame scores 1. It lies: a frozen video scores best, and
    wanted motion scores worse than none, so it is only ever a guard, beside a floor for motion.

    Source: VBench `temporal_flickering.py`, on all adjacent pairs at the video's own size.
    """
    if len(rgb_fhwc) < 2:
        return 1.0
    frames = rgb_fhwc.astype(np.float32)
    change = np.abs(frames[1:] - frames[:-1]).mean(axis=(1, 2, 3), dtype=np.float64)
    return float((255.0 - change.mean()) / 255.0)


def motion_magnitude(rgb_fhwc: Rgb) -> float:
    """How fast the fastest 5 % of the picture moves, by block matching on luma.

    In pixels per frame, as if the short side were 256: the mean displacement of the fastest
    twentieth of the blocks, averaged over adjacent frames. Whole pixels of a copy whose short side
    is at most 128, up to a sixteenth of it a frame. It stands in for optical flow (VBench's
    dynamic degree uses RAFT) until a flow library is among the dependencies; the two agree in
    order, not in value. It lies: noise and cuts count as motion, motion faster than the search or
    slower than half a pixel as none, it cannot tell the camera's motion from the subject's, and
    it reads flat shapes without texture up to half too fast.

    Source: exhaustive block matching, sum of absolute differences.
    """
    luma_fhw = _shrink(_luma(rgb_fhwc))
    short = min(luma_fhw.shape[1:])
    block, reach = max(short // _BLOCKS_ACROSS, 4), max(short // 16, 2)
    if len(luma_fhw) < 2 or short < block + 2 * reach:
        return 0.0
    speeds = [
        _top_share(_displacements(before, after, block, reach))
        for before, after in pairwise(luma_fhw)
    ]
    return float(np.mean(speeds) * _SHORT_SIDE / short)


def brightness(rgb_fhwc: Rgb) -> float:
    """Mean luma, 0 (black) to 255 (white); no side is better.

    It lies where prompts ask for night or snow: compare arms prompt by prompt, never sets.

    Source: Rec. 709 weights on the stored (non-linear) values.
    """
    return float(_luma(rgb_fhwc).mean(dtype=np.float64))


def contrast(rgb_fhwc: Rgb) -> float:
    """Standard deviation of luma within a frame, averaged over frames; 0..127.5, no better side.

    An overcooked adapter drives it up, a collapsed one down. It lies for flat graphic styles.

    Source: root-mean-square contrast.
    """
    return float(_luma(rgb_fhwc).std(axis=(1, 2), dtype=np.float64).mean())


def saturation(rgb_fhwc: Rgb) -> float:
    """Mean of (max - min) / max over the channels, as in HSV; 0..1, no better side.

    It rises with too much guidance or too strong an adapter. It lies in the dark, where the
    coder's chroma noise looks saturated.

    Source: HSV saturation.
    """
    high = rgb_fhwc.max(axis=3).astype(np.float32)
    low = rgb_fhwc.min(axis=3).astype(np.float32)
    return float(((high - low) / np.maximum(high, 1.0)).mean(dtype=np.float64))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            HELDOUT_LOSS,
            "loss",
            "mse of v",
            -1,
            "heldout",
            "how well clips are denoised that training never saw; fixed timesteps and noise",
        ),
        Metric(
            "temporal_flickering",
            "calm",
            "0..1",
            1,
            "video",
            "calm between frames as VBench defines it; a frozen video scores best",
            temporal_flickering,
        ),
        Metric(
            "motion_magnitude",
            "motion",
            "px/frame",
            1,
            "video",
            "speed of the fastest 5 % of the picture, short side 256; noise counts as motion",
            motion_magnitude,
        ),
        Metric("brightness", "brightness", "0..255", 0, "video", "mean luma", brightness),
        Metric(
            "contrast", "contrast", "0..127", 0, "video", "spread of luma within a frame", contrast
        ),
        Metric("saturation", "saturation", "0..1", 0, "video", "mean HSV saturation", saturation),
    )
}


def measure(rgb_fhwc: Rgb) -> dict[str, float]:
    """Every metric of kind "video" on one decoded video, by name."""
    return {
        name: metric.measure(rgb_fhwc)
        for name, metric in METRICS.items()
        if metric.measure is not None
    }


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


def _luma(rgb_fhwc: Rgb) -> NDArray[np.float32]:
    return rgb_fhwc.astype(np.float32) @ _LUMA


def _shrink(luma_fhw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average whole cells until the short side is at most 128; matching costs by the pixel."""
    cell = -(-min(luma_fhw.shape[1:]) // 128)
    frames, height, width = luma_fhw.shape
    rows, columns = height // cell, width // cell
    cut = luma_fhw[:, : rows * cell, : columns * cell]
    shrunk: NDArray[np.float32] = cut.reshape(frames, rows, cell, columns, cell).mean(axis=(2, 4))
    return shrunk


def _displacements(
    before_hw: NDArray[np.float32], after_hw: NDArray[np.float32], block: int, reach: int
) -> NDArray[np.float64]:
    """Length of the best shift of every block that can shift freely; ties stay put."""
    shifts = sorted(
        ((dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)),
        key=lambda shift: (np.hypot(*shift), shift),
    )
    rows = (before_hw.shape[0] - 2 * reach) // block
    columns = (before_hw.shape[1] - 2 * reach) // block
    height, width = rows * block, columns * block
    still = before_hw[reach : reach + height, reach : reach + width]
    best = np.full((rows, columns), np.inf)
    length = np.zeros((rows, columns))
    for dy, dx in shifts:
        moved = after_hw[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
        cost = np.abs(moved - still).reshape(rows, block, columns, block).mean(axis=(1, 3))
        if (dy, dx) != (0, 0):
            cost = cost + _GAIN_NEEDED
        better = cost < best
        best = np.where(better, cost, best)
        length = np.where(better, np.hypot(dy, dx), length)
    return length


def _top_share(lengths: NDArray[np.float64]) -> float:
    count = max(int(_MOVED_SHARE * lengths.size), 1)
    return float(np.sort(lengths, axis=None)[-count:].mean())
