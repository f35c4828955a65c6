"""One video to generate: everything that decides its pixels but the model. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cogvx.shapes import VideoSize
from cogvx.variants import Sampler


@dataclass(frozen=True)
class Sampling:
    """How noise becomes a video. `steps` divides 1000; `guidance` 1 means none."""

    steps: int
    guidance: float
    sampler: Sampler
    dynamic_guidance: bool = False


@dataclass(frozen=True, eq=False)
class Request:
    """One video to generate; `fps` is the rate that it is meant to be played at.

    `image_hwc` is the first frame for an image-to-video base, uint8 RGB of the video's own height
    and width; None for text-to-video.
    """

    prompt: str
    seed: int
    size: VideoSize
    fps: int
    sampling: Sampling
    negative_prompt: str = ""
    image_hwc: np.ndarray | None = None


Weights = Mapping[str, float]
"""Of attached adapters by name; 1 is the strength that an adapter was trained with."""
