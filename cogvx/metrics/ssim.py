"""How alike two videos look, frame by frame: SSIM of their luma, by torchmetrics.

The eight middle frames stand for the video, as in all comparisons here: every frame of one at
480 x 720 would take a core six seconds.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

from cogvx.errors import DataError
from cogvx.metrics.metric import Rgb
from cogvx.metrics.pixels import LUMA
from cogvx.metrics.similarity import middle_frames

_WINDOW = 11


def similarity(ours_fhwc: Rgb, theirs_fhwc: Rgb) -> float:
    """Mean SSIM of the eight middle frames, -1..1; 1 for equal videos.

    On luma, with a Gaussian window of 11 pixels and sigma 1.5, only where it lies in the picture.

    Raises:
        DataError: The videos are of different sizes or lengths, or smaller than the window.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural
        similarity"; torchmetrics `structural_similarity_index_measure`.
    """
    if ours_fhwc.shape != theirs_fhwc.shape or min(ours_fhwc.shape[1:3]) < _WINDOW:
        sizes = " and ".join(
            "x".join(str(extent) for extent in rgb_fhwc.shape[:3])
            for rgb_fhwc in (ours_fhwc, theirs_fhwc)
        )
        raise DataError(
            f"videos of {sizes} cannot be compared; use two of one size, {_WINDOW} or more"
        )
    # loads transformers and matplotlib for metrics of its own, in two seconds
    from torchmetrics.functional.image import (  # noqa: PLC0415
        structural_similarity_index_measure,
    )

    found = []
    inside = slice(_WINDOW // 2, -(_WINDOW // 2))
    for number in middle_frames(len(ours_fhwc)):
        # one by one: a frame of 480 x 720 takes 30 MB while it is compared
        _, map_bchw = structural_similarity_index_measure(
            _luma(ours_fhwc[number]),
            _luma(theirs_fhwc[number]),
            data_range=255.0,
            return_full_image=True,  # by version its own mean has the mirrored border in it
        )
        found.append(map_bchw[..., inside, inside].mean().item())
    return float(np.mean(found))


def _luma(rgb_hwc: Rgb) -> Tensor:
    """`(1, 1, h, w)`, float32, 0..255."""
    grey_hw = cv2.transform(np.ascontiguousarray(rgb_hwc), LUMA[None])
    return torch.from_numpy(grey_hw)[None, None].float()
