"""How much every frame of a video resembles the one before it and the first, by its features."""

import numpy as np
from numpy.typing import NDArray


def consistency(features_fd: NDArray[np.float32]) -> float:
    """VBench's subject and background consistency; which of the two, the features decide.

    In 0..1, more is steadier: for every frame after the first, the mean of its cosine to the frame
    before and to the first, negative ones counted as 0. A single frame scores 1. A frozen video
    scores best, so it only guards, beside a floor for motion.

    Args:
        features_fd: One row a frame, of any length but zero.

    Source: VBench `subject_consistency.py` and `background_consistency.py`, one video.
    """
    if len(features_fd) < 2:
        return 1.0
    rows_fd = features_fd.astype(np.float64)
    rows_fd = rows_fd / np.linalg.norm(rows_fd, axis=1, keepdims=True)
    to_last = np.maximum((rows_fd[1:] * rows_fd[:-1]).sum(axis=1), 0.0)
    to_first = np.maximum(rows_fd[1:] @ rows_fd[0], 0.0)
    return float(((to_last + to_first) / 2).mean())
