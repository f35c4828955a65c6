"""Frames as image networks want them: resized, cut and centred.

Not by the networks' own processors: VBench resizes without antialiasing, which moves the features
of any other way by more than an adapter does.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_SIGLIP = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def dino_frames(rgb_bchw: Tensor, side: int) -> Tensor:
    """Shrink the short side, bilinear and without antialiasing, keep all, normalise as ImageNet.

    Args:
        rgb_bchw: float, 0..255.
        side: What the short side becomes; VBench has 224.

    Source: VBench `dino_transform`.
    """
    return _normalised(_resized(rgb_bchw, side, "bilinear"), *_IMAGENET)


def clip_frames(rgb_bchw: Tensor, side: int) -> Tensor:
    """Shrink the short side, bicubic, without antialiasing or clamping, cut out the middle.

    Source: VBench `clip_transform`; arguments as in `dino_frames`.
    """
    resized = _resized(rgb_bchw, side, "bicubic")
    top, left = (round((extent - side) / 2) for extent in resized.shape[2:])
    return _normalised(resized[:, :, top : top + side, left : left + side], *_CLIP)


def siglip_frames(rgb_bchw: Tensor, side: int) -> Tensor:
    """Squeeze the whole frame into a square, bilinear and antialiased, and centre on grey.

    VBench says nothing of this network, so frames are prepared as it was trained; only that it
    saw them rounded to whole grey levels.

    Source: preprocessor_config.json of google/siglip2-base-patch16-224; arguments as `dino_frames`.
    """
    resized = functional.interpolate(
        rgb_bchw, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )
    return _normalised(resized, *_SIGLIP)


def _resized(rgb_bchw: Tensor, side: int, mode: Literal["bilinear", "bicubic"]) -> Tensor:
    height, width = rgb_bchw.shape[2:]
    short = min(height, width)
    size = (int(side * height / short), int(side * width / short))
    if size == (height, width):
        return rgb_bchw
    return functional.interpolate(
        rgb_bchw, size=size, mode=mode, align_corners=False, antialias=False
    )


def _normalised(
    rgb_bchw: Tensor, mean: tuple[float, float, float], deviation: tuple[float, float, float]
) -> Tensor:
    mean_c11, deviation_c11 = (
        torch.tensor(each, device=rgb_bchw.device).view(3, 1, 1) for each in (mean, deviation)
    )
    return (rgb_bchw / 255 - mean_c11) / deviation_c11
